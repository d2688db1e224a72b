'use strict';
// node http2.js URL COUNT: that many sessions with two requests each. Prints [{worker, same}]: who answered, and whether it
// was the same for both.
const http2 = require('http2');

const [url, count] = process.argv.slice(2);

function get(session) {
  return new Promise((resolve, reject) => {
    const request = session.request({ ':path': '/' });
    request.on('response', (headers) => resolve(Number(headers['x-worker']))).on('error', reject);
    request.setTimeout(30000, () => reject(new Error('no answer in 30 s')));
    request.resume();
  });
}

(async () => {
  const answers = [];
  while (answers.length < Number(count)) {
    const session = http2.connect(url, { rejectUnauthorized: false });
    const [worker, second] = await Promise.all([get(session), get(session)]);
    answers.push({ worker, same: worker === second });
    session.close();
  }
  console.log(JSON.stringify(answers));
})();
