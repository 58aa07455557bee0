-- Whom a recipient's outcome came from: the lane without its credential (`apns`, `apns:sandbox`, `fcm`, `webpush`), NULL
-- where no provider was asked. What retires addresses goes by it, and so does whoever wants to know which way a message took.
ALTER TABLE deliveries ADD COLUMN provider text;
