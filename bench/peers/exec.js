'use strict';
// Runs /bin/true so many times by execFile(), some at a time; prints how long all took.
const { execFile } = require('child_process');

const [count, width] = process.argv.slice(2).map(Number);
let begun = 0;
let done = 0;
const start = process.hrtime.bigint();
for (let n = 0; n < width; n++) next();

function next() {
  if (begun === count) return;
  begun++;
  execFile('/bin/true', (error) => {
    if (error) throw error;
    if (++done === count) console.log(JSON.stringify({ count, seconds: Number(process.hrtime.bigint() - start) / 1e9 }));
    else next();
  });
}
