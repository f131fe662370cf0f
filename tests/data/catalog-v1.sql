-- A catalog as version 1 of the schema left it. Frozen: it is what old data folders hold.

CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    collection TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    title TEXT,
    pages INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL CHECK (state IN ('queued', 'indexing', 'indexed', 'failed', 'removing')),
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    added_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    UNIQUE (collection, sha256)
);
-- Where a document came from. One place names one document; when its content changes,
-- next_document waits until it is indexed and then takes document's place.
CREATE TABLE sources (
    collection TEXT NOT NULL,
    source TEXT NOT NULL,
    name TEXT NOT NULL,
    document TEXT NOT NULL REFERENCES documents (id),
    next_document TEXT REFERENCES documents (id),
    PRIMARY KEY (collection, source)
);
CREATE INDEX sources_document ON sources (document);
CREATE INDEX sources_next ON sources (next_document);
CREATE TABLE pages (
    document TEXT NOT NULL REFERENCES documents (id),
    page_index INTEGER NOT NULL,
    label TEXT NOT NULL,
    width REAL NOT NULL,
    height REAL NOT NULL,
    words BLOB NOT NULL,
    text_source TEXT NOT NULL,
    image TEXT NOT NULL,
    render_hash TEXT NOT NULL,
    perceptual_hash TEXT NOT NULL,
    PRIMARY KEY (document, page_index)
) WITHOUT ROWID;
CREATE INDEX pages_image ON pages (image);
CREATE INDEX pages_label ON pages (label);
CREATE INDEX pages_index ON pages (page_index);
-- How far each page has come: 'read' (image and words), 'ocr', and one stage a collection of
-- vectors. A stage without a row is still to be done.
CREATE TABLE stages (
    document TEXT NOT NULL REFERENCES documents (id),
    page_index INTEGER NOT NULL,
    stage TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'failed')),
    reason TEXT,
    PRIMARY KEY (document, page_index, stage)
) WITHOUT ROWID;
PRAGMA user_version = 1;
INSERT INTO documents (id, collection, sha256, title, pages, state, reason, attempts) VALUES ('d-indexed', 'c', 'sha-d-indexed', 'title', 1, 'indexed', NULL, 1);
INSERT INTO sources (collection, source, name, document) VALUES ('c', '/files/indexed.pdf', 'indexed.pdf', 'd-indexed');
INSERT INTO documents (id, collection, sha256, title, pages, state, reason, attempts) VALUES ('d-failed', 'c', 'sha-d-failed', 'title', 1, 'failed', 'not a PDF', 1);
INSERT INTO sources (collection, source, name, document) VALUES ('c', '/files/failed.pdf', 'failed.pdf', 'd-failed');
INSERT INTO documents (id, collection, sha256, title, pages, state, reason, attempts) VALUES ('d-queued', 'c', 'sha-d-queued', 'title', 1, 'queued', NULL, 0);
INSERT INTO sources (collection, source, name, document) VALUES ('c', '/files/queued.pdf', 'queued.pdf', 'd-queued');
INSERT INTO documents (id, collection, sha256, title, pages, state, reason, attempts) VALUES ('d-work', 'c', 'sha-d-work', 'title', 1, 'indexing', NULL, 1);
INSERT INTO sources (collection, source, name, document) VALUES ('c', '/files/in work.pdf', 'in work.pdf', 'd-work');
INSERT INTO documents (id, collection, sha256, title, pages, state, reason, attempts) VALUES ('d-gone', 'c', 'sha-d-gone', 'title', 1, 'removing', NULL, 1);
INSERT INTO pages VALUES ('d-indexed', 0, '1', 595, 842, X'78018b8e562ac94855d231d033846223100d246275a295f2f3722a41726031206d8c245790980ed60716038a9bc0e462013d2f131c', 'layer', 'image.jpg', 'r', 'p');
INSERT INTO stages VALUES ('d-indexed', 0, 'read', 'done', NULL);
INSERT INTO stages VALUES ('d-indexed', 0, 'text--tiny', 'done', NULL);
