'use strict';
// node steady.js https|http2|ws URL CLIENTS: clients that ask without pause until standard input ends. Then prints
// {requests, workers, failures: {CODE: n}, goaways, closes: [MS]}; of ws, when each connection ended.
const http2 = require('http2');
const https = require('https');
const { WebSocket } = require('../runtimes/node_modules/ws');

const [kind, url, clients] = process.argv.slice(2);
const seen = { requests: 0, workers: {}, failures: {}, goaways: 0, closes: [] };
const begun = Date.now();
let over = false;

const one = {
  // As any client with keep-alive: a connection that the server announced to end is not used again.
  https() {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false });
    return () => new Promise((resolve, reject) => {
      https.get(url, { agent }, (res) => {
        const worker = res.headers['x-worker'];
        res.resume().on('end', () => resolve(worker)).on('error', reject);
      }).on('error', reject);
    });
  },

  http2() {
    let session;
    return async function ask() {
      if (!session || session.closed || session.destroyed) {
        session = http2.connect(url, { rejectUnauthorized: false });
        session.on('goaway', () => seen.goaways++).on('error', () => {});
      }
      try {
        return await get(session);
      } catch (error) {
        // RFC 9113, 8.7: the server says that it has not looked at this stream; any client asks again.
        const refused = /REFUSED|GOAWAY/.test(`${error.code} ${error.message}`);
        if (!refused) throw error;
        session = undefined;
        return ask();
      }
    };
    function get(session) {
      return new Promise((resolve, reject) => {
        const request = session.request({ ':path': '/' });
        let worker;
        request.on('response', (headers) => { worker = headers['x-worker']; });
        request.on('error', reject).on('end', () => resolve(worker)).resume();
      });
    }
  },

  ws() {
    const socket = new WebSocket(url);
    const opened = new Promise((resolve) => socket.once('message', resolve));
    socket.on('close', () => seen.closes.push(Date.now() - begun)).on('error', () => {});
    return async () => {
      await opened;
      if (socket.readyState !== WebSocket.OPEN) return new Promise((resolve) => setTimeout(resolve, 20));
      await new Promise((resolve) => { socket.once('message', resolve).once('close', resolve); socket.send('x'); });
    };
  },
};

async function client(ask) {
  while (!over) {
    try {
      const worker = await ask();
      seen.requests++;
      seen.workers[worker] = (seen.workers[worker] ?? 0) + 1;
    } catch (error) {
      const code = `${error.code}: ${error.message}`;
      seen.failures[code] = (seen.failures[code] ?? 0) + 1;
    }
  }
}

process.stdin.on('data', () => {}).on('end', () => { over = true; });
Promise.all(Array.from({ length: Number(clients) }, () => client(one[kind]()))).then(() => {
  console.log(JSON.stringify(seen));
  process.exit();
});
