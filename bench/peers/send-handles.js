'use strict';
// Sends one socket many times to count-handles.js and prints how long that took: send-handles.js COUNT socket|native
const { fork } = require('child_process');
const net = require('net');

const total = Number(process.argv[2]);
const native = process.argv[3] === 'native'; // without a net.Socket around it in the child, as cluster does
const UNDER_WAY = 64;

const server = net.createServer().listen(0, '127.0.0.1', () => {
  const socket = net.connect(server.address().port, '127.0.0.1', () => run(socket));
});

function run(socket) {
  const child = fork(`${__dirname}/count-handles.js`, [total]);
  let sent = 0, underWay = 0, begun;
  const pump = () => {
    for (; sent < total && underWay < UNDER_WAY; sent++, underWay++) {
      child.send({ sent }, native ? socket._handle : socket, { keepOpen: true }, () => { underWay--; pump(); });
    }
  };
  child.on('message', ({ ready, seen }) => {
    if (ready) {
      begun = process.hrtime.bigint();
      pump();
    } else {
      console.log(JSON.stringify({ count: seen, seconds: Number(process.hrtime.bigint() - begun) / 1e9 }));
      process.exit();
    }
  });
}
