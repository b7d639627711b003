// Receives dispatchd's webhooks. Node 16 or newer, nothing to install.
//
//     WEBHOOK_SECRET=whsec_... PORT=8000 node receive.js

const { createHmac, timingSafeEqual } = require("crypto");
const http = require("http");

const key = Buffer.from(process.env.WEBHOOK_SECRET.slice("whsec_".length), "base64");
const tolerance = 300; // seconds that the timestamp may be away from our clock

// verify returns whether the body was signed with our key, not long ago.
function verify(headers, body) {
  const stamp = headers["webhook-timestamp"] || "";
  if (!/^[0-9]+$/.test(stamp) || Math.abs(Date.now() / 1000 - Number(stamp)) > tolerance) return false;
  // body holds the bytes as they came: JSON that was parsed and written anew has another signature.
  const signed = Buffer.concat([Buffer.from(`${headers["webhook-id"]}.${stamp}.`), body]);
  const want = Buffer.from("v1," + createHmac("sha256", key).update(signed).digest("base64"));
  // There are two signatures while the secret is being changed: one must fit.
  return (headers["webhook-signature"] || "").split(" ").some((one) => {
    const got = Buffer.from(one);
    return got.length === want.length && timingSafeEqual(got, want);
  });
}

const seen = new Set(); // in real life: a table with a unique key

http
  .createServer((req, res) => {
    const parts = [];
    req.on("data", (part) => parts.push(part));
    req.on("end", () => {
      const body = Buffer.concat(parts);
      const good = req.method === "POST" && verify(req.headers, body);
      res.writeHead(good ? 204 : 401).end();
      const id = req.headers["webhook-id"];
      if (!good || seen.has(id)) return;
      seen.add(id);
      const event = JSON.parse(body);
      // In real life it goes into a queue before the answer.
      console.log(event.type, event.orcid || "");
    });
  })
  .listen(Number(process.env.PORT), "127.0.0.1");
