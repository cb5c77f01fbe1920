/**
 * A server behind an Application Load Balancer that authenticates its users: a line for each answer.
 *
 * Who is billed is the `sub` of the token that the load balancer has signed. It is believed only with the signature
 * of AWS's key and the ARN of our own load balancer as its signer, since anybody's could sign one. The id is made here:
 * the request's own headers are the caller's.
 */
import { randomUUID, verify } from "node:crypto";

const decoded = (part) => JSON.parse(Buffer.from(part, "base64url").toString());

export async function customerOf(headers, loadBalancer, publicKey) {
  const [head, claims, signature] = String(headers["x-amzn-oidc-data"]).split(".");
  const { alg, kid, signer, exp } = decoded(head);
  if (alg !== "ES256" || signer !== loadBalancer || exp * 1000 < Date.now()) throw new Error("no token of ours");
  const key = { key: await publicKey(kid), dsaEncoding: "ieee-p1363" };
  const isSigned = verify("sha256", Buffer.from(`${head}.${claims}`), key, Buffer.from(signature, "base64url"));
  if (!isSigned) throw new Error("no token of the load balancer");
  return decoded(claims).sub;
}

export function report(customer, words) {
  const usage = { id: randomUUID(), time: Date.now(), customer, words };
  console.log(JSON.stringify({ usage }));
}

export async function publicKeyOf(kid, region = process.env.AWS_REGION) {
  const answer = await fetch(`https://public-keys.auth.elb.${region}.amazonaws.com/${encodeURIComponent(kid)}`);
  return answer.text();
}
