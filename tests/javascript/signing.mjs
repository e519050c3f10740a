// Signs what a controller publishes, as docs/controller.md describes it.

import { createHash } from "node:crypto";
import { nkeys } from "@nats-io/nats-core";

export class Signer {
  /** Take the text of an nkey seed as bytes. */
  constructor(seed) {
    this.pair = nkeys.fromSeed(seed);
    this.last = 0;
  }

  /** The headers that sign a message; `version` is greater than all before it unless it is given. */
  headers(subject, body, { removes, version = this.#next() }) {
    const hash = createHash("sha256").update(body).digest("hex");
    const lines = ["droplet.signature.v1", subject, removes ? "remove" : "put", version, hash];
    const signature = this.pair.sign(Buffer.from(lines.map((line) => `${line}\n`).join(""), "utf8"));
    return {
      "Droplet-Version": String(version),
      "Droplet-Publisher": this.pair.getPublicKey(),
      "Droplet-Signature": Buffer.from(signature).toString("base64url"),
    };
  }

  #next() {
    this.last = Math.max(this.last + 1, Date.now() * 1000);
    return this.last;
  }
}
