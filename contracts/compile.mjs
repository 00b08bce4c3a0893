// Compile src/*.sol into the artifacts that the daemon carries; the artifacts are committed.
//   npm ci && npm run build      write ../node/adapters/artifacts/*.json and manifest.json
//   npm run check                fail if what is committed is not what the sources say
// manifest.json holds the SHA-256 of everything that goes in and comes out, so a machine
// without npm notices an artifact that somebody forgot to rebuild (tests/contracts).
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import solc from "solc";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "node", "adapters", "artifacts");
const read = (...path) => readFileSync(join(here, ...path), "utf8");
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const sorted = (entries) =>
  Object.fromEntries([...entries].sort(([a], [b]) => (a < b ? -1 : 1)));

// Those that are deployed; the other sources are their bases.
const contracts = [
  "Registry",
  "Parameters",
  "Council",
  "Datasets",
  "Market",
  "Board",
  "Anchors",
  "Judge",
  "Disputes",
  "Reputation",
  "Committee",
  "DevCoin",
];

const settings = {
  evmVersion: "cancun", // py-evm, under the development chain, knows no later one
  optimizer: { enabled: true, runs: 200 },
  viaIR: true, // deployments cost a fifth less (docs/chain.md)
  metadata: { bytecodeHash: "none" }, // paths of a machine must not reach the bytecode
  outputSelection: {
    "*": {
      "*": [
        "abi",
        "evm.bytecode.object",
        "evm.deployedBytecode.object",
        "evm.deployedBytecode.immutableReferences",
      ],
    },
  },
};

function compile() {
  const names = readdirSync(join(here, "src")).filter((name) => name.endsWith(".sol"));
  const sources = new Map(names.map((name) => [name, read("src", name)]));
  const libraries = new Map();
  const found = (path) => {
    if (!existsSync(join(here, "node_modules", path))) {
      return { error: `${path} not found; run npm ci` };
    }
    libraries.set(path, read("node_modules", path));
    return { contents: libraries.get(path) };
  };
  const input = {
    language: "Solidity",
    sources: Object.fromEntries([...sources].map(([name, content]) => [name, { content }])),
    settings,
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: found }));
  for (const message of output.errors ?? []) console.error(message.formattedMessage);
  if ((output.errors ?? []).length > 0) process.exit(1);
  return { output: output.contracts, sources, libraries };
}

function artifact(name, { abi, evm }) {
  const runtime = evm.deployedBytecode;
  // Where the constructor writes its immutables: [start, length] in the code, all of them.
  const immutables = Object.values(runtime.immutableReferences)
    .flat()
    .map(({ start, length }) => [start, length])
    .sort(([a], [b]) => a - b);
  const fields = {
    name,
    abi,
    bytecode: `0x${evm.bytecode.object}`,
    runtime: `0x${runtime.object}`,
    immutables,
  };
  return `${JSON.stringify(fields, null, 1)}\n`;
}

const { output, sources, libraries } = compile();
const files = new Map(
  contracts.map((name) => [
    join(target, `${name}.json`),
    artifact(name, output[`${name}.sol`][name]),
  ]),
);
const manifest = {
  solc: solc.version(),
  soljson: sha256(readFileSync(join(here, "node_modules", "solc", "soljson.js"))),
  settings,
  builder: sorted(
    ["compile.mjs", "package.json", "package-lock.json"].map((name) => [name, sha256(read(name))]),
  ),
  sources: sorted([...sources].map(([name, text]) => [name, sha256(text)])),
  libraries: sorted([...libraries].map(([name, text]) => [name, sha256(text)])),
  artifacts: sorted(
    contracts.map((name) => [`${name}.json`, sha256(files.get(join(target, `${name}.json`)))]),
  ),
};
files.set(join(here, "manifest.json"), `${JSON.stringify(manifest, null, 1)}\n`);

mkdirSync(target, { recursive: true });
let stale = 0;
for (const [path, text] of files) {
  if (!process.argv.includes("--check")) {
    writeFileSync(path, text);
  } else if (!existsSync(path) || readFileSync(path, "utf8") !== text) {
    console.error(`${path}: what is committed is not what the sources say`);
    stale += 1;
  }
}
for (const name of contracts) {
  const { runtime } = JSON.parse(files.get(join(target, `${name}.json`)));
  console.log(`${name}: ${runtime.length / 2 - 1} bytes, the limit is 24576`);
}
process.exitCode = stale === 0 ? 0 : 1;
