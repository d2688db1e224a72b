'use strict';
// Node's own cluster around server.js; NODE_CLUSTER_SCHED_POLICY says "rr" or "none".
const cluster = require('cluster');

cluster.setupPrimary({ exec: `${__dirname}/server.js` });
for (let n = 0; n < Number(process.argv[2]); n++) cluster.fork();
process.on('SIGTERM', () => process.exit()); // the workers end with their channel
