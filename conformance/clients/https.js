'use strict';
// node https.js PORT COUNT [SESSION]: that many requests, one connection each, TLS 1.2 so that a ticket is there at the end
// of the handshake; each but the first brings the ticket of the first, or of SESSION. Prints {answers, session}, where
// answers are [{worker, resumed}].
const https = require('https');

const [port, count] = process.argv.slice(2, 4).map(Number);
let session = process.argv[4] ? Buffer.from(process.argv[4], 'base64') : undefined;

function get() {
  return new Promise((resolve, reject) => {
    const options = { port, host: '127.0.0.1', rejectUnauthorized: false, agent: false, session, maxVersion: 'TLSv1.2' };
    https.get(options, (res) => {
      const resumed = res.socket.isSessionReused();
      session ??= res.socket.getSession();
      res.resume().on('end', () => resolve({ worker: Number(res.headers['x-worker']), resumed }));
    }).on('error', reject).setTimeout(30000, () => reject(new Error('no answer in 30 s')));
  });
}

(async () => {
  const answers = [];
  while (answers.length < count) answers.push(await get());
  console.log(JSON.stringify({ answers, session: session.toString('base64') }));
})();
