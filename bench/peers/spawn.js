'use strict';
// How long child_process.spawn() takes in a process of this many MiB with this many files open; prints microseconds.
const { spawn } = require('child_process');
const fs = require('fs');

const [mebibytes, files, runs] = process.argv.slice(2).map(Number);
const memory = Buffer.alloc(mebibytes << 20, 1);
for (let n = 0; n < files; n++) fs.openSync('/dev/null');

const taken = [];
next();

function next() {
  if (taken.length === runs) {
    console.log(JSON.stringify({ node: taken, kept: memory.length }));
    return;
  }
  const begun = process.hrtime.bigint();
  const child = spawn('/bin/true', { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  taken.push(Number(process.hrtime.bigint() - begun) / 1e3);
  child.on('exit', next);
}
