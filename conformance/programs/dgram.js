'use strict';
// A UDP server: answers each datagram with the worker, the process, and what was sent.
const dgram = require('dgram');
const { who } = require('./answer');

const socket = dgram.createSocket('udp4');
socket.on('message', (message, { port, address }) => {
  socket.send(JSON.stringify({ ...who, message: message.toString() }), port, address);
});
socket.bind(Number(process.env.PORT ?? 0), process.env.HOST);
