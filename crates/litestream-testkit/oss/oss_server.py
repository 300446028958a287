#!/usr/bin/env python3
"""Small in-memory stand-in for Alibaba Cloud OSS, for loopback tests only.

No package registry carries an OSS emulator, so this one speaks just the part of
the API that a Litestream replica uses: bucket create, object put/get/head/delete,
ListObjectsV2, DeleteMultipleObjects and multipart upload, path style
(/bucket/key) as SDKs use with an IP endpoint.  It verifies the V4 signature
(OSS4-HMAC-SHA256) and its time, Content-MD5 and an x-oss-content-sha256 that is
not UNSIGNED-PAYLOAD, and answers x-oss-hash-crc64ecma.  Upstream's released
binary, which signs with Alibaba's own library, is the check on this server.

usage: oss_server.py PORT ACCESS_KEY_ID ACCESS_KEY_SECRET REGION BUCKET...
"""
import base64
import calendar
import ctypes
import ctypes.util
import email.utils
import hashlib
import hmac
import html
import http.server
import lzma
import re
import sys
import threading
import time
import urllib.parse
import uuid
from xml.sax.saxutils import escape

PORT, AKID, AKSECRET, REGION = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
LOCK = threading.Lock()                         # makes "forbid overwrite" atomic
BUCKETS = {name: {} for name in sys.argv[5:]}   # bucket -> key -> object dict
UPLOADS = {}                                    # upload id -> dict
DEFAULT_MAX_KEYS = 100                          # as the real service
MIN_PART = 100 * 1024                           # OSS minimum size of all parts but the last


def quote(text, keep_slash=False):
    return urllib.parse.quote(text, safe="~-._/" if keep_slash else "~-._")


try:
    _lzma_crc64 = ctypes.CDLL(ctypes.util.find_library("lzma") or "liblzma.so.5").lzma_crc64
    _lzma_crc64.restype, _lzma_crc64.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
except (OSError, AttributeError):
    _lzma_crc64 = None


def crc64(data):
    """CRC-64/XZ of data, by liblzma; else by reading the check out of an xz container."""
    if _lzma_crc64:
        return _lzma_crc64(data, len(data), 0)
    if not data:
        return 0
    box = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=0)
    index_len = (int.from_bytes(box[-8:-4], "little") + 1) * 4
    end = len(box) - 12 - index_len
    return int.from_bytes(box[end - 8:end], "little")


class Refused(Exception):
    def __init__(self, status, code, message=""):
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are two writes; together they would wait for an
    # acknowledgement that is delayed.
    disable_nagle_algorithm = True
    server_version = "FakeOSS/1"

    def log_message(self, fmt, *args):
        sys.stderr.write("%s %s\n" % (time.strftime("%H:%M:%S"), fmt % args))

    # --- plumbing -------------------------------------------------------
    def handle_any(self):
        parts = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        raw = urllib.parse.unquote(parts.path).lstrip("/")
        self.bucket, _, self.key = raw.partition("/")
        self.body = self.read_body()
        try:
            self.check_signature(parts.query)
            self.check_digests()
            self.route()
        except Refused as no:
            doc = ("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>%s</Code><Message>%s</Message>"
                   "<RequestId>%s</RequestId><HostId>fake</HostId></Error>"
                   % (no.code, escape(no.message), self.request_id()))
            self.answer(no.status, doc.encode(), {"Content-Type": "application/xml"})

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def read_body(self):
        if "chunked" in (self.headers.get("Transfer-Encoding") or "").lower():
            out = b""
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                out += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def request_id(self):
        return uuid.uuid4().hex[:24].upper()

    def answer(self, status, body=b"", headers=None, length=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.send_header("x-oss-request-id", self.request_id())
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def xml(self, root, inner, headers=None):
        doc = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><%s>%s</%s>" % (root, inner, root)
        self.answer(200, doc.encode(), dict(headers or {}, **{"Content-Type": "application/xml"}))

    # --- checks ---------------------------------------------------------
    def check_signature(self, rawquery):
        auth = self.headers.get("Authorization") or ""
        if not auth.startswith("OSS4-HMAC-SHA256 "):
            raise Refused(403, "AccessDenied", "V4 signature required")
        field = dict(p.strip().split("=", 1) for p in auth.split(" ", 1)[1].split(","))
        akid, day, region, product, tail = field["Credential"].split("/")
        if akid != AKID:
            raise Refused(403, "InvalidAccessKeyId")
        if region != REGION:
            raise Refused(403, "InvalidRequest", "wrong region in credential: " + region)
        try:
            sent = calendar.timegm(time.strptime(self.headers.get("x-oss-date") or "", "%Y%m%dT%H%M%SZ"))
        except ValueError:
            raise Refused(400, "InvalidArgument", "x-oss-date is malformed")
        if abs(time.time() - sent) > 900:
            raise Refused(403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large.")
        extra = [h for h in field.get("AdditionalHeaders", "").lower().split(";") if h]
        lines = []
        for name in sorted({h.lower() for h in self.headers.keys()}):
            if name.startswith("x-oss-") or name in ("content-type", "content-md5") or name in extra:
                lines.append("%s:%s\n" % (name, (self.headers.get(name) or "").strip()))
        pairs = []
        for item in rawquery.split("&"):
            if item:
                k, eq, v = item.partition("=")
                k, v = quote(urllib.parse.unquote_plus(k)), quote(urllib.parse.unquote_plus(v))
                pairs.append((k, "=" + v if v else ""))
        uri = "/" + quote(self.bucket) + "/" + quote(self.key, True) if self.bucket else "/"
        payload = self.headers.get("x-oss-content-sha256") or "UNSIGNED-PAYLOAD"
        query = "&".join(k + v for k, v in sorted(pairs))
        canon = "\n".join([self.command, uri, query, "".join(lines), ";".join(sorted(extra)), payload])
        stamp = self.headers.get("x-oss-date") or ""
        scope = "/".join([day, region, product, tail])
        to_sign = "\n".join(["OSS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canon.encode()).hexdigest()])
        key = ("aliyun_v4" + AKSECRET).encode()
        for word in (day, region, product, tail):
            key = hmac.new(key, word.encode(), hashlib.sha256).digest()
        want = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(want, field.get("Signature", "")):
            raise Refused(403, "SignatureDoesNotMatch", "string to sign was: " + to_sign)

    def check_digests(self):
        md5 = self.headers.get("Content-MD5")
        if md5 and base64.b64encode(hashlib.md5(self.body).digest()).decode() != md5:
            raise Refused(400, "InvalidDigest")
        sha = self.headers.get("x-oss-content-sha256") or "UNSIGNED-PAYLOAD"
        if re.fullmatch(r"[0-9a-f]{64}", sha) and hashlib.sha256(self.body).hexdigest() != sha:
            raise Refused(400, "InvalidArgument", "payload hash mismatch")

    def the_bucket(self):
        if self.bucket not in BUCKETS:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        return BUCKETS[self.bucket]

    def the_object(self):
        found = self.the_bucket().get(self.key)
        if found is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return found

    # --- operations -----------------------------------------------------
    def route(self):
        # No lock is held while answering: a restore keeps several downloads
        # open and reads them in its own order.
        op, q = self.command, self.query
        if not self.key:
            if op == "PUT":
                BUCKETS.setdefault(self.bucket, {})
                return self.answer(200)
            self.the_bucket()
            if op == "GET" and q.get("list-type") == "2":
                return self.list_v2()
            if op == "POST" and "delete" in q:
                return self.delete_many()
            if op == "HEAD":
                return self.answer(200)
            raise Refused(400, "NotImplemented")
        if op == "POST" and "uploads" in q:
            return self.begin_upload()
        if op == "POST" and "uploadId" in q:
            return self.finish_upload()
        if op == "PUT" and "uploadId" in q:
            return self.put_part()
        if op == "DELETE" and "uploadId" in q:
            UPLOADS.pop(q["uploadId"], None)
            return self.answer(204)
        if op == "PUT":
            return self.put_object()
        if op in ("GET", "HEAD"):
            return self.get_object()
        if op == "DELETE":
            self.the_bucket().pop(self.key, None)
            return self.answer(204)
        raise Refused(405, "MethodNotAllowed")

    def metadata(self):
        return {k.lower(): v for k, v in self.headers.items() if k.lower().startswith("x-oss-meta-")}

    def store(self, data, meta, etag):
        obj = {"data": data, "meta": meta, "etag": etag, "when": time.time(), "crc": crc64(data)}
        self.the_bucket()[self.key] = obj
        return obj

    def put_object(self):
        etag = '"%s"' % hashlib.md5(self.body).hexdigest().upper()
        with LOCK:
            if self.headers.get("x-oss-forbid-overwrite", "").lower() == "true" and self.key in self.the_bucket():
                raise Refused(409, "FileAlreadyExists")
            obj = self.store(self.body, self.metadata(), etag)
        self.answer(200, b"", {"ETag": obj["etag"], "x-oss-hash-crc64ecma": obj["crc"]})

    def get_object(self):
        obj = self.the_object()
        data, status = obj["data"], 200
        head = {"ETag": obj["etag"], "Last-Modified": email.utils.formatdate(obj["when"], usegmt=True),
                "x-oss-object-type": "Normal", "x-oss-hash-crc64ecma": obj["crc"],
                "Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **obj["meta"]}
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if m:
            first, last = int(m[1]), int(m[2]) if m[2] else len(data) - 1
            strict = self.headers.get("x-oss-range-behavior") == "standard"
            if first >= len(data) and strict:
                raise Refused(416, "InvalidRange")
            if first < len(data) and (last < len(data) or strict):
                last = min(last, len(data) - 1)
                head["Content-Range"] = "bytes %d-%d/%d" % (first, last, len(data))
                data, status = data[first:last + 1], 206
            # without "standard" the real service ignores a range that does not fit
        self.answer(status, data, head, len(data))

    def list_v2(self):
        q, enc = self.query, quote if self.query.get("encoding-type") == "url" else escape
        limit = min(int(q.get("max-keys") or DEFAULT_MAX_KEYS), 1000)
        after = max(q.get("start-after", ""), base64.b64decode(q.get("continuation-token", "")).decode())
        prefix, delim = q.get("prefix", ""), q.get("delimiter", "")
        rows, groups, more, last = [], [], False, ""
        bucket = dict(self.the_bucket())
        for key in sorted(k for k in bucket if k.startswith(prefix) and k > after):
            group = ""
            if delim and delim in key[len(prefix):]:
                group = prefix + key[len(prefix):].split(delim, 1)[0] + delim
                if group in groups or group <= after:
                    continue
            if len(rows) + len(groups) >= limit:
                more = True
                break
            if group:
                groups.append(group)
                last = group + "\U0010ffff"
                continue
            last = key
            obj = bucket[key]
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(obj["when"]))
            rows.append("<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>%s</ETag><Type>Normal</Type>"
                        "<Size>%d</Size><StorageClass>Standard</StorageClass></Contents>"
                        % (enc(key), stamp, escape(obj["etag"]), len(obj["data"])))
        inner = "<Name>%s</Name><Prefix>%s</Prefix><MaxKeys>%d</MaxKeys>" % (self.bucket, enc(prefix), limit)
        if q.get("encoding-type"):
            inner += "<EncodingType>url</EncodingType>"
        inner += "<IsTruncated>%s</IsTruncated><KeyCount>%d</KeyCount>" % (str(more).lower(), len(rows) + len(groups))
        if more:
            inner += "<NextContinuationToken>%s</NextContinuationToken>" % base64.b64encode(last.encode()).decode()
        inner += "".join(rows) + "".join("<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % enc(g) for g in groups)
        self.xml("ListBucketResult", inner)

    def delete_many(self):
        if not self.headers.get("Content-MD5"):
            raise Refused(400, "MissingArgument", "Content-MD5 is required")
        text = self.body.decode()
        keys = [html.unescape(k) for k in re.findall(r"<Key>([^<]*)</Key>", text)]
        if len(keys) > 1000:
            raise Refused(400, "MalformedXML")
        enc = quote if self.query.get("encoding-type") == "url" else escape
        for key in keys:
            self.the_bucket().pop(key, None)
        if "<Quiet>true</Quiet>" in text:
            return self.answer(200)
        inner = "<EncodingType>url</EncodingType>" if self.query.get("encoding-type") else ""
        self.xml("DeleteResult", inner + "".join("<Deleted><Key>%s</Key></Deleted>" % enc(k) for k in keys))

    def begin_upload(self):
        self.the_bucket()
        ident = uuid.uuid4().hex.upper()
        UPLOADS[ident] = {"bucket": self.bucket, "key": self.key, "meta": self.metadata(), "parts": {}}
        self.xml("InitiateMultipartUploadResult", "<Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId>"
                 % (self.bucket, quote(self.key) if self.query.get("encoding-type") else escape(self.key), ident))

    def the_upload(self):
        up = UPLOADS.get(self.query["uploadId"])
        if not up or (up["bucket"], up["key"]) != (self.bucket, self.key):
            raise Refused(404, "NoSuchUpload")
        return up

    def put_part(self):
        etag = '"%s"' % hashlib.md5(self.body).hexdigest().upper()
        self.the_upload()["parts"][int(self.query["partNumber"])] = (etag, self.body)
        self.answer(200, b"", {"ETag": etag, "x-oss-hash-crc64ecma": crc64(self.body)})

    def finish_upload(self):
        up, text, data, tags = self.the_upload(), self.body.decode(), b"", b""
        if self.headers.get("x-oss-forbid-overwrite", "").lower() == "true" and self.key in self.the_bucket():
            raise Refused(409, "FileAlreadyExists")
        listed = re.findall(r"<Part>(.*?)</Part>", text, re.S)
        numbers = [int(re.search(r"<PartNumber>(\d+)", p)[1]) for p in listed]
        if not numbers or numbers != sorted(numbers):
            raise Refused(400, "InvalidPartOrder")
        for i, (number, chunk) in enumerate(zip(numbers, listed)):
            tag = re.search(r"<ETag>(.*?)</ETag>", chunk)[1].replace("&#34;", '"').replace("&quot;", '"').strip('"').upper()
            etag, part = up["parts"].get(number, ("", b""))
            if etag.strip('"') != tag:
                raise Refused(400, "InvalidPart")
            if len(part) < MIN_PART and i < len(numbers) - 1:
                raise Refused(400, "EntityTooSmall")
            data += part
            tags += bytes.fromhex(tag)
        obj = self.store(data, up["meta"], '"%s-%d"' % (hashlib.md5(tags).hexdigest().upper(), len(numbers)))
        UPLOADS.pop(self.query["uploadId"])
        self.xml("CompleteMultipartUploadResult", "<Bucket>%s</Bucket><Key>%s</Key><ETag>%s</ETag>"
                 % (self.bucket, quote(self.key) if self.query.get("encoding-type") else escape(self.key), escape(obj["etag"])),
                 {"x-oss-hash-crc64ecma": obj["crc"]})


if __name__ == "__main__":
    http.server.ThreadingHTTPServer.request_queue_size = 128
    server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
    server.daemon_threads = True
    server.serve_forever()
