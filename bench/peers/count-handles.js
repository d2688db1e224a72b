'use strict';
// Says "ready", takes as many handles as its argument says, closes them, and says how many there were.
const total = Number(process.argv[2]);
let seen = 0;

process.on('message', (_, handle) => {
  if (!handle) return;
  if (handle.destroy) handle.destroy(); // a net.Socket
  else handle.close();
  if (++seen === total) process.send({ seen });
});
process.send({ ready: true });
