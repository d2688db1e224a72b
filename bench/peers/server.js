'use strict';
// The server that every peer runs: the least that HTTP can be. Each process that listens writes a line to READY.
const fs = require('fs');
const http = require('http');

http.createServer((_, response) => response.end('hello world\n')).listen(Number(process.env.PORT), '127.0.0.1', () => {
  if (process.env.READY) fs.appendFileSync(process.env.READY, `${process.pid}\n`);
});
