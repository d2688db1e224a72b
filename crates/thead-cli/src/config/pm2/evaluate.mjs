// Evaluates the file that the last argument names and writes what it exports as JSON to descriptor 3. Runs under Node, Bun and
// Deno. What goes wrong is left to the runtime, which tells where.
import fs from 'node:fs';
import process from 'node:process';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const file = process.argv.at(-1);
// Whatever the file prints is nobody's business.
console.log = console.info = console.debug = () => {};

async function load() {
  if (/\.c?js$/.test(file)) {
    try {
      return createRequire(file)(file);
    } catch (error) {
      // It is an ES module after all.
      const module = error?.code === 'ERR_REQUIRE_ESM' || error?.code === 'ERR_REQUIRE_ASYNC_MODULE';
      const syntax = error instanceof SyntaxError && /\b(export|import)\b/.test(String(error.message) + fs.readFileSync(file));
      const scope = error instanceof ReferenceError && /\b(module|exports|require) is not defined\b/.test(error.message);
      if (!module && !syntax && !scope) throw error;
      if (scope && file.endsWith('.js')) throw error;
    }
  }
  return import(pathToFileURL(file).href);
}

let value = await load();
if (value?.default !== undefined && (value.__esModule || Object.prototype.toString.call(value) === '[object Module]')) {
  value = value.default?.apps === undefined && value.apps !== undefined ? value : value.default;
}
if (typeof value === 'function') value = value();
value = await value;
const text = JSON.stringify(value);
if (text === undefined) throw new TypeError('it exports nothing');
// By its name, for not every runtime knows a descriptor that it has not opened.
fs.writeFileSync('/dev/fd/3', text);
process.exit(0);
