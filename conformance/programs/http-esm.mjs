// http.js as an ECMAScript module.
import http from 'node:http';
import answer from './answer.js';

http.createServer(answer).listen(process.env.SOCKET ?? process.env.PORT ?? 0, process.env.HOST);
