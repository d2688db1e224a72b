'use strict';
// The lab's answers (lab/src/serve/handler.rs) by Node. Each process that listens writes a line to READY.
const fs = require('fs');
const http = require('http');

const now = () => process.hrtime.bigint() / 1000n; // the clock that all processes share, in µs
const bodies = Buffer.alloc(1 << 20, 'x');
let seen = 0;

function send(response, status, type, body) {
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
}

function span(response, began) {
  // Node has one thread for this, which has the number of its process.
  const text = `{"pid":${process.pid},"thread":${process.pid},"began_us":${began},"ended_us":${now()}}\n`;
  send(response, 200, 'application/json', text);
}

function work(turns) {
  let word = 1;
  for (let i = 0; i < turns; i++) word = (Math.imul(word, 1664525) + 1) | 0;
  return word;
}

// Turns of `work` in a millisecond of processor time. Node tells the time of a thread by getrusage, which many kernels count
// in ticks of 4 ms: too coarse to burn 2. So it is measured once, by the clock on the wall, in the run that was disturbed least.
const turnsPerMs = (() => {
  const turns = 20_000;
  let least = Infinity;
  for (let run = 0; run < 2000; run++) {
    const began = process.hrtime.bigint();
    work(turns);
    least = Math.min(least, Number(process.hrtime.bigint() - began) / 1e6);
  }
  return turns / least;
})();

const burn = (ms) => work(Math.round(turnsPerMs * ms));

function number(query, name, otherwise, most) {
  const given = query.get(name);
  if (given === null) return otherwise;
  if (/^\d+$/.test(given) && Number(given) <= most) return Number(given);
  throw new RangeError(`${name} is "${given}", it must be a number up to ${most}\n`);
}

const routes = {
  '/': (response) => send(response, 200, 'text/plain', 'hello from the lab\n'),
  '/io': (response, query) => {
    const ms = number(query, 'ms', 10, 60000);
    const began = now();
    setTimeout(() => span(response, began), ms);
  },
  '/cpu': (response, query) => {
    const ms = number(query, 'ms', 2, 60000);
    const began = now();
    burn(ms);
    span(response, began);
  },
  '/mix': (response, query) => {
    const began = now();
    if (number(query, 'n', seen, Number.MAX_SAFE_INTEGER) % 100 === 0) setTimeout(() => span(response, began), 100);
    else send(response, 200, 'text/plain', 'fast\n');
  },
  '/body': (response, query) =>
    send(response, 200, 'application/octet-stream', bodies.subarray(0, number(query, 'bytes', 1024, bodies.length))),
  '/crash': (response, query) => {
    if (number(query, 'n', 1, Number.MAX_SAFE_INTEGER) % 10000 === 0) process.abort();
    send(response, 200, 'text/plain', 'survived\n');
  },
  '/state': (response) =>
    send(response, 200, 'application/json', `{"pid":${process.pid},"thread":${process.pid},"requests":${seen}}\n`),
};

function answer(request, response) {
  seen++;
  const [path, query] = request.url.split('?', 2);
  const route = Object.hasOwn(routes, path) ? routes[path] : undefined;
  if (!route) return send(response, 404, 'text/plain', `there are ${Object.keys(routes).join(', ')}\n`);
  try {
    route(response, new URLSearchParams(query));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    send(response, 400, 'text/plain', error.message);
  }
}

const { HOST, PORT, BACKLOG, READY } = process.env;
// As in the models of an event loop: a connection stays while its client wants it.
http.createServer({ keepAliveTimeout: 0 }, answer).listen({ host: HOST, port: Number(PORT), backlog: Number(BACKLOG) }, () => {
  fs.appendFileSync(READY, `${process.pid}\n`);
});
