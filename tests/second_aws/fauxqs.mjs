// Serves fauxqs, an SQS in memory. Its clock is the one that each call carries, in milliseconds, so that delays and
// visibility timeouts follow it. Prints the port.
import { buildApp } from "fauxqs";

let now = 0;
Date.now = () => now;

const app = buildApp({ logger: false });
app.addHook("onRequest", async (request) => {
  now = Number(request.headers["x-clock"] ?? now);
});
await app.listen({ host: "127.0.0.1", port: 0 });
console.log(app.server.address().port);
