// Compile the mutants of tests/contracts/mutants/mutants.json, each one edit of one source:
//   npm run mutants              write ../tests/contracts/mutants/bytecode.json
// The tests that must catch them run without a compiler.  Mutants are compiled the short way
// (not through the intermediate language), which takes a third of the time; the "unchanged"
// ones show that this alone is not noticed.  Those of disputes have too many variables for it, and
// are optimised once and not until nothing changes, which spares a third.
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { Worker, isMainThread, parentPort } from "node:worker_threads";
import { deflateRawSync } from "node:zlib";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const folder = join(here, "..", "tests", "contracts", "mutants");
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const list = readFileSync(join(folder, "mutants.json"), "utf8");
const names = readdirSync(join(here, "src")).filter((name) => name.endsWith(".sol")).sort();
const sources = Object.fromEntries(
  names.map((name) => [name, readFileSync(join(here, "src", name), "utf8")]),
);
const libraries = (path) => {
  const at = join(here, "node_modules", path);
  return existsSync(at)
    ? { contents: readFileSync(at, "utf8") }
    : { error: `${path} not found; run npm ci` };
};

const ONCE = {
  yul: true,
  yulDetails: { stackAllocation: true, optimizerSteps: "dhfoDgvulfnTUtnIf:" },
};

function compile({ name, contract, file, old, new: text }) {
  const changed = old === "" ? sources[file] : sources[file].replace(old, () => text);
  if (old !== "" && sources[file].split(old).length !== 2) {
    throw new Error(`${name}: the text to change is not once in ${file}`);
  }
  const through = ["Judge", "Disputes"].includes(contract);
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(
      Object.entries({ ...sources, [file]: changed }).map(([key, content]) => [key, { content }]),
    ),
    settings: {
      evmVersion: "cancun",
      optimizer: { enabled: true, runs: 200, ...(through ? { details: ONCE } : {}) },
      metadata: { bytecodeHash: "none" },
      viaIR: through,
      outputSelection: { [`${contract}.sol`]: { [contract]: ["evm.bytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: libraries }));
  // A mutant may leave a variable unused; only errors count.
  const errors = (output.errors ?? []).filter((one) => one.severity === "error");
  if (errors.length > 0) throw new Error(`${name}: ${errors[0].formattedMessage}`);
  return Buffer.from(output.contracts[`${contract}.sol`][contract].evm.bytecode.object, "hex");
}

const mutants = JSON.parse(list);
if (!isMainThread) {
  parentPort.on("message", (i) => parentPort.postMessage([i, compile(mutants[i])]));
} else {
  const codes = await compiled();
  const result = {
    made_from: sha256(list + names.map((name) => sources[name]).join("")),
    lengths: codes.map((code) => code.length),
    // One stream for all, because they differ so little.
    deflated: deflateRawSync(Buffer.concat(codes), { level: 9 }).toString("base64"),
  };
  writeFileSync(join(folder, "bytecode.json"), `${JSON.stringify(result)}\n`);
}

// The code of every mutant, in their order; a thread takes the next one when it is done.
function compiled() {
  const codes = [];
  let next = 0;
  const work = () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(fileURLToPath(import.meta.url));
      const give = () => (next < mutants.length ? worker.postMessage(next++) : worker.terminate());
      worker.on("message", ([i, code]) => {
        codes[i] = Buffer.from(code);
        console.log(`${i + 1}/${mutants.length} ${mutants[i].name}: ${code.length} bytes`);
        give();
      });
      worker.on("error", reject);
      worker.on("exit", resolve);
      give();
    });
  return Promise.all(Array.from({ length: availableParallelism() }, work)).then(() => codes);
}
