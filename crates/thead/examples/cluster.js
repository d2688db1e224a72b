// The server of cluster.rs: it knows nothing of the cluster.
const http = require('node:http');

http.createServer((request, response) => response.end(`${process.pid}\n`)).listen(0, '127.0.0.1');
