'use strict';
// Messages to echo.js and back: how many in all, how many under way at once, in which serialization, and about how long;
// prints how long that took.
const { fork } = require('child_process');

const [total, window] = process.argv.slice(2).map(Number);
const [serialization, bytes, words] = process.argv.slice(4);
const text = words.repeat(Math.max(1, Math.floor(bytes / words.length)));
const child = fork(`${__dirname}/echo.js`, { serialization });
let sent = 0, back = 0, begun;

child.on('message', ({ ready, number }) => {
  if (ready) {
    begun = process.hrtime.bigint();
    while (sent < Math.min(window, total)) child.send({ number: sent++, text });
    return;
  }
  if (number !== back++) throw new Error(`message ${number} came in place of ${back - 1}`);
  if (sent < total) child.send({ number: sent++, text });
  if (back === total) {
    console.log(JSON.stringify({ count: back, seconds: Number(process.hrtime.bigint() - begun) / 1e9 }));
    process.exit();
  }
});
