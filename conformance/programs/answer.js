'use strict';
// What the HTTP programs answer; the same for http, https, http2, Express and Fastify.
//   GET /            {"worker":1,"pid":4711,"version":"…"}, the version from VERSION
//   GET /slow?ms=300 the same, later
//   GET /big?bytes=N N bytes "x", streamed
//   GET /stream?ms=N one line each 50 ms, chunked, for N ms
//   POST             the body
// Every answer carries the worker in the header "x-worker" and the process in "x-pid".
const cluster = require('cluster');

const who = {
  worker: cluster.worker ? cluster.worker.id : null,
  pid: process.pid,
  version: process.env.VERSION ?? null,
};

module.exports = function answer(req, res) {
  const { pathname, searchParams } = new URL(req.url, 'http://host');
  const ms = Number(searchParams.get('ms'));
  res.setHeader('x-worker', String(who.worker));
  res.setHeader('x-pid', String(who.pid));
  if (req.method === 'POST') {
    if (req.headers['content-length']) res.setHeader('content-length', req.headers['content-length']);
    req.pipe(res);
  } else if (pathname === '/big') {
    big(res, Number(searchParams.get('bytes') ?? 1 << 20));
  } else if (pathname === '/stream') {
    stream(res, ms);
  } else if (pathname === '/slow') {
    setTimeout(() => res.end(JSON.stringify(who)), ms);
  } else {
    res.end(JSON.stringify(who));
  }
};
module.exports.who = who;

function big(res, bytes) {
  const piece = Buffer.alloc(Math.min(bytes, 16384), 'x');
  res.setHeader('content-length', String(bytes));
  (function more() {
    while (bytes > 0) {
      const length = Math.min(bytes, piece.length);
      bytes -= length;
      if (!res.write(piece.subarray(0, length))) return void res.once('drain', more);
    }
    res.end();
  })();
}

function stream(res, ms) {
  const end = Date.now() + ms;
  (function line() {
    if (Date.now() >= end) return res.end('end\n');
    res.write('line\n');
    setTimeout(line, 50);
  })();
}
