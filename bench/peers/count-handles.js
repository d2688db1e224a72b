'use strict';
// Says "ready", takes as many sockets as its argument says, closes them, and says how many there were.
const total = Number(process.argv[2]);
let seen = 0;

process.on('message', (_, socket) => {
  if (!socket) return;
  socket.destroy();
  if (++seen === total) process.send({ seen });
});
process.send({ ready: true });
