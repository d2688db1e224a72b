'use strict';
// Never gets as far as listening: exit code 1, the reason on stderr.
throw new Error('throws-at-start.js throws at start');
