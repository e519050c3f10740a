// The digest of a set of documents and revisions, from its description in docs/controller.md.

import { blake2b } from "@noble/hashes/blake2.js";

const MODULUS = 1n << 128n;

/** The digest of [name, revision] pairs; revisions are numbers or BigInts. */
export function digest(documents) {
  let sum = 0n;
  for (const [name, revision] of documents) sum = (sum + term(name, BigInt(revision))) % MODULUS;
  return sum.toString(16).padStart(32, "0");
}

function term(name, revision) {
  const number = Buffer.alloc(8);
  number.writeBigUInt64LE(revision);
  const hash = blake2b(Buffer.concat([Buffer.from(name, "utf8"), Buffer.from([0]), number]), { dkLen: 16 });
  return BigInt(`0x${Buffer.from(hash).reverse().toString("hex")}`);
}
