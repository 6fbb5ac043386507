// Validates AsyncAPI documents with the parser of AsyncAPI's own tools. Errors and warnings fail.
//
//   node asyncapi.mjs DIRECTORY-WITH-NODE_MODULES FILE…
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';

const [tools, ...files] = process.argv.slice(2);
const { Parser, DiagnosticSeverity } = createRequire(`${resolve(tools)}/`)('@asyncapi/parser');

if (files.length === 0) throw new Error('name at least one file');
for (const file of files) {
    const { document, diagnostics } = await new Parser().parse(readFileSync(file, 'utf8'), { source: resolve(file) });
    for (const { severity, message, path, range } of diagnostics) {
        if (severity <= DiagnosticSeverity.Warning) process.exitCode = 1;
        console.log(`${file}:${range.start.line + 1}: ${DiagnosticSeverity[severity]}: ${message} (${path.join('.')})`);
    }
    if (!document) process.exitCode = 1;
    else console.log(`${file}: AsyncAPI ${document.version()}, ${document.channels().all().length} channels,`,
        `${document.operations().all().length} operations, ${document.messages().all().length} messages`);
}
