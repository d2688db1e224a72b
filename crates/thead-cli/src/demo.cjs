// A server that knows nothing of thead.
const http = require('node:http');

const server = http.createServer((request, response) => {
  response.end(`node ${process.version}, pid ${process.pid}\n`);
});
server.listen(Number(process.env.PORT), '127.0.0.1');
