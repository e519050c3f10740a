// Says what the AsyncAPI parser finds wrong with a document: one line each on stdout, exit status 1 when there is any.
// node validate_asyncapi.mjs FILE

import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const LEVELS = ["error", "warning"]; // by the parser's number; what comes after is advice

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const found = diagnostics.filter(({ severity }) => severity < LEVELS.length);
for (const { severity, code, path, message } of found) {
  console.log(`${LEVELS[severity]} ${code} at ${path.join(".")}: ${message}`);
}
process.exitCode = document && found.length === 0 ? 0 : 1;
