'use strict';
// app.js in several processes, by Node's cluster; whoever dies is replaced.
const cluster = require('cluster');

cluster.setupPrimary({ exec: `${__dirname}/app.js` });
for (let n = 0; n < Number(process.argv[2]); n++) cluster.fork();
cluster.on('exit', () => cluster.fork());
process.on('SIGTERM', () => process.exit()); // the workers end with their channel
