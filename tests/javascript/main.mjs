// Runs the controller for a test: one command a line on stdin as JSON, [METHOD, ...ARGUMENTS], one answer a line on stdout.
// node main.mjs '{"server": ..., "authority": ..., "seed": ..., "host": ...}'

import { createInterface } from "node:readline";
import { Controller } from "./controller.mjs";
import { digest } from "./digest.mjs";
import { example } from "./reference.mjs";

const controller = await Controller.connect(JSON.parse(process.argv[2]));
const others = { example, digestOf: digest };

for await (const line of createInterface({ input: process.stdin })) {
  const [method, ...args] = JSON.parse(line);
  try {
    const value = method in others ? others[method](...args) : await controller[method](...args);
    console.log(JSON.stringify({ value: value ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message, trace: error.stack }));
  }
}
await controller.close();
