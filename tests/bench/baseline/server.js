'use strict';
/*
 * The Express backend that PetBuddy replaces (docs/migration.md), rebuilt from its description to
 * be measured against: Express, Mongoose and Socket.IO in one Node process, on one mongod. It has
 * the routes of messages and the sockets, and nothing of logins, contacts or jobs.
 */
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const path = require('path');
const axios = require('axios');
const cors = require('cors');
const express = require('express');
const mongoSanitize = require('express-mongo-sanitize');
const { rateLimit } = require('express-rate-limit');
const helmet = require('helmet');
const Joi = require('joi');
const jwt = require('jsonwebtoken');
const mongoose = require('mongoose');
const { Server } = require('socket.io');
const winston = require('winston');

// ---------------------------------------------------------------- configuration
const env = process.env;
const PORT = Number(env.PORT || 4000);
const HOST = env.HOST || '127.0.0.1';
const MONGODB_URI = env.MONGODB_URI || 'mongodb://127.0.0.1:37217/baseline';
const JWT_SECRET = env.JWT_ACCESS_SECRET || '';
const META_BOT_BASE_URL = env.META_BOT_BASE_URL || 'http://localhost:5001';
const RATE_LIMIT_MAX = Number(env.RATE_LIMIT_MAX || 300);
const RATE_LIMIT_WINDOW_MS = Number(env.RATE_LIMIT_WINDOW_MS || 15 * 60 * 1000);
const LOG_DIR = env.LOG_DIR || path.join(__dirname, 'logs');
const PRODUCTION = env.NODE_ENV === 'production';
// Compound indexes that a careful operator might add. The backend had only those of one field.
const COMPOUND = env.COMPOUND_INDEXES === '1';

if (JWT_SECRET.length < 32) {
  console.error('JWT_ACCESS_SECRET must be set (at least 32 characters)');
  process.exit(1);
}

// ---------------------------------------------------------------- logging
fs.mkdirSync(LOG_DIR, { recursive: true });
const logger = winston.createLogger({
  level: env.LOG_LEVEL || 'info',
  defaultMeta: { service: 'express' },
  format: winston.format.combine(
    winston.format.timestamp(),
    winston.format.errors({ stack: true }),
    winston.format.json(),
  ),
  transports: [
    new winston.transports.File({ filename: path.join(LOG_DIR, 'error.log'), level: 'error' }),
    new winston.transports.File({ filename: path.join(LOG_DIR, 'combined.log') }),
  ],
});
if (!PRODUCTION) {
  logger.add(
    new winston.transports.Console({
      format: winston.format.combine(winston.format.colorize(), winston.format.simple()),
    }),
  );
}

// ---------------------------------------------------------------- models
const ROLES = ['user', 'operator', 'assistant'];
const PLATFORMS = ['instagram', 'facebook', 'telegram', 'whatsapp', 'web', 'other'];
const DIRECTIONS = ['inbound', 'outbound'];
const { ObjectId } = mongoose.Types;

const messageSchema = new mongoose.Schema(
  {
    company_id: { type: mongoose.Schema.Types.ObjectId, required: true },
    contact_id: { type: mongoose.Schema.Types.ObjectId, required: true },
    role: { type: String, enum: ROLES, required: true },
    platform: { type: String, enum: PLATFORMS, required: true },
    direction: { type: String, enum: DIRECTIONS, required: true },
    content: { type: String, maxlength: 5000, default: '' },
    attachments: [{ _id: false, type: { type: String }, url: String, file_description: String }],
    external_message_id: String,
    read: { type: Boolean, default: false },
    delivered: { type: Boolean, default: false },
    read_at: Date,
  },
  { timestamps: { createdAt: 'created_at', updatedAt: 'updated_at' }, versionKey: false },
);
messageSchema.index({ created_at: -1 });
messageSchema.index({ contact_id: 1 });
messageSchema.index({ company_id: 1 });
messageSchema.index({ platform: 1 });
if (COMPOUND) {
  messageSchema.index({ company_id: 1, contact_id: 1, created_at: -1 });
  messageSchema.index({ company_id: 1, platform: 1, contact_id: 1, created_at: -1 });
}
const Message = mongoose.model('Message', messageSchema);

const contactSchema = new mongoose.Schema(
  {
    company_id: mongoose.Schema.Types.ObjectId,
    fullName: String,
    email: String,
    phone: String,
    socialNetworkName: String,
    contactStatus: String,
    botSuspended: Boolean,
    botSuspendUntil: Date,
    leadStage: String,
    social: { facebookId: String, instagramId: String },
    profile: { name: String },
  },
  { versionKey: false },
);
const Contact = mongoose.model('Contact', contactSchema);

// ---------------------------------------------------------------- validation
const oid = Joi.string().hex().length(24);
const createSchema = Joi.object({
  company_id: oid.required(),
  contact_id: oid.required(),
  role: Joi.string()
    .valid(...ROLES)
    .required(),
  platform: Joi.string()
    .valid(...PLATFORMS)
    .required(),
  direction: Joi.string()
    .valid(...DIRECTIONS)
    .required(),
  content: Joi.string().max(5000).allow(''),
  attachments: Joi.array()
    .max(20)
    .items(
      Joi.object({
        type: Joi.string().max(50).required(),
        url: Joi.string().uri().max(2048).required(),
        file_description: Joi.string().max(1000).allow(''),
      }),
    ),
  external_message_id: Joi.string().max(256),
}).custom((v, h) =>
  v.content || (v.attachments && v.attachments.length) ? v : h.error('any.invalid'),
);
const listSchema = Joi.object({
  company_id: oid,
  contact_id: oid.required(),
  platform: Joi.string().valid(...PLATFORMS),
  limit: Joi.number().integer().min(1).max(200).default(50),
  skip: Joi.number().integer().min(0).default(0),
});
const conversationsSchema = Joi.object({
  company_id: oid,
  limit: Joi.number().integer().min(1).max(200).default(20),
  skip: Joi.number().integer().min(0).default(0),
});
const patchSchema = Joi.object({
  id: oid.required(),
  content: Joi.string().max(5000),
  read: Joi.boolean(),
  delivered: Joi.boolean(),
}).or('content', 'read', 'delivered');
const deleteSchema = Joi.object({ id: oid.required() });
const markReadSchema = Joi.object({
  contact_id: oid,
  message_ids: Joi.array().items(oid).max(1000),
}).or('contact_id', 'message_ids');

const validate =
  (schema, from = 'body') =>
  (req, res, next) => {
    const { error, value } = schema.validate(req[from], { abortEarly: false, stripUnknown: true });
    if (error) {
      return res.status(400).json({
        success: false,
        error: 'Validation failed',
        details: error.details.map((d) => ({ field: d.path.join('.'), message: d.message })),
      });
    }
    if (value.company_id && value.company_id !== req.user.companyId) {
      return res.status(403).json({ success: false, error: 'company_id is not yours' });
    }
    req.valid = value;
    next();
  };

// ---------------------------------------------------------------- auth
// Made once: jsonwebtoken would make a key object for every call.
const JWT_KEY = crypto.createSecretKey(Buffer.from(JWT_SECRET));
const verifyToken = (token) => jwt.verify(token, JWT_KEY, { algorithms: ['HS256'] });
function authenticate(req, res, next) {
  const h = req.headers.authorization || '';
  if (!h.startsWith('Bearer '))
    return res.status(401).json({ success: false, error: 'Missing token' });
  try {
    req.user = verifyToken(h.slice(7));
    next();
  } catch (e) {
    next(e);
  }
}
const wrap = (fn) => (req, res, next) => fn(req, res, next).catch(next);

// ---------------------------------------------------------------- forwarding
const FORWARD_PATH = { facebook: '/chat/manual-facebook', instagram: '/chat/manual-instagram' };
async function forward(m) {
  const p = FORWARD_PATH[m.platform];
  if (m.role !== 'operator' || m.direction !== 'outbound' || !p) return null;
  try {
    const r = await axios.post(META_BOT_BASE_URL + p, m, {
      timeout: 10000,
      headers: { 'x-internal-api-key': env.INTERNAL_SERVICE_API_KEY || '' },
    });
    return { success: true, status: r.status };
  } catch (error) {
    logger.error('Message forwarding failed', {
      error: error.message,
      messageData: { company_id: m.company_id, contact_id: m.contact_id, platform: m.platform },
      endpoint: META_BOT_BASE_URL + p,
    });
    return { success: false, error: error.message };
  }
}

// ---------------------------------------------------------------- HTTP
const app = express();
const server = http.createServer(app);
server.keepAliveTimeout = 65000;
const io = new Server(server, {
  pingInterval: 25000,
  pingTimeout: 60000,
  cors: { origin: env.CORS_ORIGIN || '*' },
});
const companyRoom = (id) => `company:${id}`;
const conversationRoom = (id) => `conversation:${id}`;

app.use(helmet());
app.use(cors({ origin: env.CORS_ORIGIN || '*' }));
app.use(express.json({ limit: '10mb' }));
app.use(mongoSanitize());

app.get('/health', (req, res) => {
  const up = mongoose.connection.readyState === 1;
  res.status(up ? 200 : 503).json({ status: up ? 'ok' : 'degraded', uptime: process.uptime() });
});

const r = express.Router();
r.use(
  rateLimit({
    windowMs: RATE_LIMIT_WINDOW_MS,
    max: RATE_LIMIT_MAX,
    standardHeaders: true,
    legacyHeaders: false,
  }),
);
r.use(authenticate);

r.post(
  '/',
  validate(createSchema),
  wrap(async (req, res) => {
    const forwarding = await forward(req.valid);
    const doc = await Message.create({
      ...req.valid,
      delivered: !!(forwarding && forwarding.success),
    });
    const messageData = doc.toObject();
    io.to(companyRoom(req.valid.company_id)).emit('message:new', {
      conversationId: req.valid.contact_id,
      message: messageData,
    });
    const body = {
      success: true,
      message: 'Message created successfully',
      messageData,
      forwarding: forwarding ? { attempted: true, ...forwarding } : { attempted: false },
    };
    if (forwarding && !forwarding.success) {
      body.warning = 'Message saved, but forwarding to the platform failed';
    }
    res.status(201).json(body);
  }),
);

r.post(
  '/instagram',
  validate(conversationsSchema),
  wrap(async (req, res) => {
    const { limit, skip } = req.valid;
    const [out] = await Message.aggregate([
      { $match: { company_id: new ObjectId(req.user.companyId), platform: 'instagram' } },
      { $sort: COMPOUND ? { contact_id: 1, created_at: -1 } : { created_at: -1 } },
      { $group: { _id: '$contact_id', lastMessage: { $first: '$$ROOT' } } },
      { $sort: { 'lastMessage.created_at': -1 } },
      {
        $facet: {
          conversations: [
            { $skip: skip },
            { $limit: limit },
            {
              $lookup: { from: 'contacts', localField: '_id', foreignField: '_id', as: 'contact' },
            },
            { $unwind: { path: '$contact', preserveNullAndEmptyArrays: true } },
          ],
          total: [{ $count: 'n' }],
        },
      },
    ]);
    res.json({
      success: true,
      conversations: out.conversations,
      pagination: { total: out.total.length ? out.total[0].n : 0, limit, skip },
    });
  }),
);

// The backend lists by a second "POST /" as well. Express cannot tell the two apart, so this one
// has a path of its own.
const listByContact = wrap(async (req, res) => {
  const { contact_id, platform, limit, skip } = req.valid;
  const q = { company_id: req.user.companyId, contact_id };
  if (platform) q.platform = platform;
  const [messages, total] = await Promise.all([
    Message.find(q).sort({ created_at: -1 }).skip(skip).limit(limit).lean(),
    Message.countDocuments(q),
  ]);
  res.json({ success: true, messages, pagination: { total, limit, skip } });
});
r.post('/by-contact', validate(listSchema), listByContact);
r.get('/', validate(listSchema, 'query'), listByContact);

r.put(
  '/mark-read',
  validate(markReadSchema),
  wrap(async (req, res) => {
    const n = await markRead(req.user.companyId, req.valid);
    res.json({ success: true, modified: n });
  }),
);

r.get(
  '/:id',
  wrap(async (req, res) => {
    const m = await Message.findOne({ _id: req.params.id, company_id: req.user.companyId }).lean();
    if (!m) return res.status(404).json({ success: false, error: 'Message not found' });
    res.json({ success: true, messageData: m });
  }),
);

r.patch(
  '/',
  validate(patchSchema),
  wrap(async (req, res) => {
    const { id, ...set } = req.valid;
    const m = await Message.findOneAndUpdate(
      { _id: id, company_id: req.user.companyId },
      { $set: set },
      { new: true, runValidators: true },
    ).lean();
    if (!m) return res.status(404).json({ success: false, error: 'Message not found' });
    res.json({ success: true, messageData: m });
  }),
);

r.delete(
  '/',
  validate(deleteSchema),
  wrap(async (req, res) => {
    const out = await Message.deleteOne({ _id: req.valid.id, company_id: req.user.companyId });
    if (!out.deletedCount)
      return res.status(404).json({ success: false, error: 'Message not found' });
    res.json({ success: true });
  }),
);

app.use('/api/v1/messages', r);
app.use((req, res) => res.status(404).json({ success: false, error: 'Not found' }));
// Express takes a function of four parameters for an error handler.
app.use((err, req, res, next) => {
  const status =
    err.name === 'ValidationError' || err.name === 'CastError'
      ? 400
      : err.code === 11000
        ? 409
        : err.name === 'JsonWebTokenError' || err.name === 'TokenExpiredError'
          ? 401
          : err.status || 500;
  if (status >= 500)
    logger.error('Unhandled error', { error: err.message, stack: err.stack, url: req.originalUrl });
  res
    .status(status)
    .json({ success: false, error: status >= 500 ? 'Internal server error' : err.message });
});

// ---------------------------------------------------------------- sockets
async function markRead(companyId, { contact_id, message_ids }) {
  const q = { company_id: companyId, read: false };
  if (contact_id) q.contact_id = contact_id;
  if (message_ids) q._id = { $in: message_ids };
  const read_at = new Date();
  const out = await Message.updateMany(q, { $set: { read: true, read_at } });
  io.to(companyRoom(companyId)).emit('message:status', {
    conversationId: contact_id,
    messageIds: message_ids,
    status: 'read',
    read_at,
  });
  return out.modifiedCount;
}

io.use((socket, next) => {
  try {
    const u = verifyToken((socket.handshake.auth || {}).token);
    socket.userId = u.userId;
    socket.companyId = u.companyId;
    next();
  } catch (e) {
    next(new Error('Authentication failed'));
  }
});

io.on('connection', (socket) => {
  logger.info('Client connected', {
    socketId: socket.id,
    userId: socket.userId,
    companyId: socket.companyId,
  });
  socket.join(companyRoom(socket.companyId));
  const ok = (id) => typeof id === 'string' && /^[0-9a-f]{24}$/i.test(id);
  const conv = (d) => (d && typeof d === 'object' ? d.conversationId : d);
  // A conversation room is per company, so that no other company's members can listen in.
  const room = (id) => conversationRoom(`${socket.companyId}:${id}`);
  socket.on('conversation:join', (d) => {
    if (ok(conv(d))) socket.join(room(conv(d)));
  });
  socket.on('conversation:leave', (d) => {
    if (ok(conv(d))) socket.leave(room(conv(d)));
  });
  const typing = (isTyping) => (d) => {
    const id = conv(d);
    if (!ok(id)) return;
    socket
      .to(room(id))
      .emit('typing:indicator', { conversationId: id, userId: socket.userId, isTyping });
  };
  socket.on('typing:start', typing(true));
  socket.on('typing:stop', typing(false));
  socket.on('message:read', async (d) => {
    const { error, value } = markReadSchema.validate(
      {
        contact_id: d && (d.contact_id || d.conversationId),
        message_ids: d && (d.message_ids || d.messageIds),
      },
      { stripUnknown: true },
    );
    if (error) return;
    try {
      await markRead(socket.companyId, value);
    } catch (e) {
      logger.error('message:read failed', { error: e.message });
    }
  });
  socket.on('disconnect', (reason) => {
    logger.info('Client disconnected', { socketId: socket.id, reason });
  });
});

// ---------------------------------------------------------------- start and stop
async function main() {
  await mongoose.connect(MONGODB_URI, { maxPoolSize: 10 });
  await Promise.all([Message.init(), Contact.init()]);
  await new Promise((done) => server.listen(PORT, HOST, 1024, done));
  logger.info('Listening', { port: PORT, pid: process.pid });
}
async function stop(sig) {
  logger.info('Stopping', { sig });
  setTimeout(() => process.exit(1), 10000).unref();
  await new Promise((done) => io.close(done)); // closes the HTTP server too
  await mongoose.disconnect();
  process.exit(0);
}
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
process.on('unhandledRejection', (e) =>
  logger.error('Unhandled rejection', { error: e && e.message }),
);
main().catch((e) => {
  console.error(e);
  process.exit(1);
});
