/**
 * A function behind a function URL: a line for each call.
 *
 * Who is billed is the AWS account that signed the call (AWS_IAM), which Lambda has verified and no caller can choose;
 * the ARN beside it ends with a session's name, which a caller does choose. The id is Lambda's own, of this call alone.
 */
export async function handler(event) {
  const { authorizer, requestId, timeEpoch } = event.requestContext;
  const body = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8").toString();
  const words = body.match(/\S+/g)?.length ?? 0;
  const usage = { id: requestId, time: timeEpoch, customer: authorizer.iam.accountId, words };
  console.log(JSON.stringify({ usage })); // as text: an object would be printed in Node's own form
  return { words };
}
