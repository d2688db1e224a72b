'use strict';
// Starts, stays, and never becomes ready.
setInterval(() => {}, 1 << 30);
