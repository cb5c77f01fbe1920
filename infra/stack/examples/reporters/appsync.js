/**
 * The last function of an AppSync pipeline: it writes a line into a log group of its own, by an HTTP data source.
 *
 * Who is billed is the `sub` of the token that AppSync has verified. The log that AppSync keeps itself is no place for
 * usage: it holds queries, and so what callers write. A call that could not be metered fails, so that none goes unseen.
 */
import { util } from "@aws-appsync/utils";

export function request(ctx) {
  const now = util.time.nowEpochMilliSeconds();
  const usage = { id: util.autoId(), time: now, customer: ctx.identity.sub, queries: 1 };
  const event = { timestamp: now, message: JSON.stringify({ usage }) };
  const body = { logGroupName: ctx.env.USAGE_LOG, logStreamName: ctx.env.USAGE_STREAM, logEvents: [event] };
  const headers = { "Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "Logs_20140328.PutLogEvents" };
  return { method: "POST", resourcePath: "/", params: { headers, body: JSON.stringify(body) } };
}

export function response(ctx) {
  if (ctx.error || ctx.result.statusCode !== 200) {
    util.error("This call could not be metered: try again.", "NotMetered");
  }
  return ctx.prev.result;
}
