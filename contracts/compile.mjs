// Compile src/*.sol into the artifacts that the daemon carries; the artifacts are committed.
//   npm ci && npm run build      write ../node/adapters/artifacts/*.json
//   npm run check                fail if what is committed is not what the sources say
// The digest over sources, this file and the lock file lets a machine without npm notice an
// artifact that somebody forgot to rebuild.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "node", "adapters", "artifacts");
const contracts = ["Registry", "Datasets", "Anchors"];
const names = readdirSync(join(here, "src")).filter((name) => name.endsWith(".sol")).sort();
const read = (...path) => readFileSync(join(here, ...path), "utf8");

function sourceDigest() {
  const files = [...names.map((name) => ["src", name]), ["compile.mjs"], ["package-lock.json"]];
  const sum = (data) => createHash("sha256").update(data).digest("hex");
  return sum(files.map((path) => `${path.join("/")} ${sum(read(...path))}\n`).join(""));
}

function compile() {
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(names.map((name) => [name, { content: read("src", name) }])),
    settings: {
      evmVersion: "cancun",
      optimizer: { enabled: true, runs: 200 },
      metadata: { bytecodeHash: "none" },
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
    },
  };
  const found = (path) =>
    existsSync(join(here, "node_modules", path))
      ? { contents: read("node_modules", path) }
      : { error: `${path} not found; run npm ci` };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: found }));
  for (const message of output.errors ?? []) console.error(message.formattedMessage);
  if ((output.errors ?? []).length > 0) process.exit(1);
  return output.contracts;
}

const output = compile();
const check = process.argv.includes("--check");
let stale = 0;
mkdirSync(target, { recursive: true });
for (const name of contracts) {
  const { abi, evm } = output[`${name}.sol`][name];
  const artifact = {
    name,
    solc: solc.version(),
    sources: sourceDigest(),
    abi,
    bytecode: `0x${evm.bytecode.object}`,
  };
  const text = `${JSON.stringify(artifact, null, 1)}\n`;
  const path = join(target, `${name}.json`);
  if (!check) {
    writeFileSync(path, text);
    console.log(`${name}: ${evm.bytecode.object.length / 2} bytes`);
  } else if (!existsSync(path) || readFileSync(path, "utf8") !== text) {
    console.error(`${name}: the committed artifact is not what the sources say`);
    stale += 1;
  }
}
process.exitCode = stale === 0 ? 0 : 1;
