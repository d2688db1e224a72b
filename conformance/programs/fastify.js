'use strict';
// A Fastify application.
const fastify = require('fastify')();
const { who } = require('./answer');

fastify.addHook('onSend', async (request, reply) => {
  reply.header('x-worker', String(who.worker)).header('x-pid', String(who.pid));
});
fastify.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body));
fastify.get('/', async () => who);
fastify.get('/slow', (request) => new Promise((resolve) => setTimeout(resolve, Number(request.query.ms), who)));
fastify.post('/*', async (request) => request.body);
fastify.listen({ port: Number(process.env.PORT ?? 0), host: process.env.HOST });
