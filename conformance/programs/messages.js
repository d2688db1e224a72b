'use strict';
// Sends back each message of its parent as {echo}; a socket that comes with one gets a line and is closed. Says {online}
// first. Does not listen.
const { who } = require('./answer');

process.on('message', (message, handle) => {
  if (handle) handle.end(JSON.stringify(who) + '\n');
  process.send({ echo: message, handle: handle ? handle.constructor.name : null });
});
if (process.send) process.send({ online: who });
