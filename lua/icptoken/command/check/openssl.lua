-- Certificates, and requests without verifying the server, by the program openssl. Only numbers and PEM are read from
-- its output, not its messages.

local probe = require "icptoken.command.check.probe"
local process = require "icptoken.cli.process"
local times = require "icptoken.cli.times"

local openssl = {}

local PROGRAM = "openssl"

--- Whether the program is installed.
function openssl.is_installed()
  return process.find(PROGRAM) ~= nil
end

-- peer: { host =, address =, port =, proxy =, cert =, key = }
local function connect_words(peer, more)
  local address = peer.address:find ":" and "[" .. peer.address .. "]" or peer.address
  local words = { PROGRAM, "s_client", "-connect", ("%s:%d"):format(address, peer.port) }
  local function add(...)
    for _, word in ipairs { ... } do words[#words + 1] = word end
  end
  if peer.proxy then add("-proxy", peer.proxy) end
  if probe.is_address(peer.host) then
    add "-noservername"
  else
    add("-servername", peer.host)
  end
  if peer.cert then add("-cert", peer.cert, "-key", peer.key or peer.cert) end
  add((table.unpack or unpack)(more)) -- luacheck: ignore 143
  return words
end

--- Sends text over TLS without verifying the certificate, and returns the bytes that are received within the time.
function openssl.exchange(peer, text, seconds)
  local _, output = process.run(connect_words(peer, { "-quiet" }), text, { seconds = seconds, errors = "nowhere" })
  return output
end

-- as in libcurl, a certificate in the middle of a chain may be a trust anchor
local function trust_words(trust, host)
  local words = { "-showcerts", "-partial_chain" }
  local function add(...)
    for _, word in ipairs { ... } do words[#words + 1] = word end
  end
  if trust.cacert then add("-CAfile", trust.cacert, "-no-CApath", "-no-CAstore") end
  if trust.capath then add("-CApath", trust.capath, "-no-CAfile", "-no-CAstore") end
  add((table.unpack or unpack)(trust.words or {})) -- luacheck: ignore 143
  if probe.is_address(host) then
    add("-verify_ip", (host:gsub("[%[%]]", "")))
  else
    add("-verify_hostname", host)
  end
  return words
end

--- What openssl's report of a handshake says: `certificates` (PEM, the server's first), `errors` (numbers of
-- X509_V_ERR_…, in order), `is_complete` (whether there was a handshake).
function openssl.parse_report(text)
  local report = { certificates = {}, errors = {}, is_complete = false }
  for pem in text:gmatch "%-%-%-%-%-BEGIN CERTIFICATE%-%-%-%-%-.-%-%-%-%-%-END CERTIFICATE%-%-%-%-%-" do
    table.insert(report.certificates, pem)
  end
  for number in text:gmatch "verify error:num=(%d+)" do table.insert(report.errors, tonumber(number)) end
  local cipher = text:match "Cipher is ([%w_-]+)"
  report.is_complete = cipher ~= nil
  return report
end

--- Performs a handshake, and returns the report of it (see parse_report), with `is_late` if it took longer than the
-- time. trust is { cacert = } or { capath = }, or empty for the system's CAs; `words` in it are further arguments.
function openssl.look(peer, trust, seconds)
  local _, output, is_late = process.run(connect_words(peer, trust_words(trust, peer.host)), "",
    { seconds = seconds, errors = "output" })
  local report = openssl.parse_report(output)
  report.is_late = is_late and not report.is_complete
  return report
end

local function split_names(text)
  local names = {}
  for kind, name in text:gmatch "(%a[%a ]*):([^,%s]+)" do
    if kind:find "DNS$" or kind:find "Address$" then names[#names + 1] = name end
  end
  return names
end

--- What `openssl x509` prints of a certificate, as a table: `subject`, `issuer`, `not_before`, `not_after`, `names`,
-- `fingerprint`.
function openssl.parse_certificate(text)
  local names = text:match "Subject Alternative Name:[^\n]*\n%s*([^\n]*)" or ""
  return { subject = text:match "subject=%s*([^\n]*)" or "?", issuer = text:match "issuer=%s*([^\n]*)" or "?",
    not_before = times.parse_openssl(text:match "notBefore=([^\n]*)" or ""),
    not_after = times.parse_openssl(text:match "notAfter=([^\n]*)" or ""), names = split_names(names),
    fingerprint = text:match "Fingerprint=([%x:]+)" }
end

--- Describes a certificate (PEM) as parse_certificate does.
function openssl.describe(pem)
  local _, output = process.run({ PROGRAM, "x509", "-noout", "-nameopt", "RFC2253", "-subject", "-issuer", "-startdate",
    "-enddate", "-fingerprint", "-sha256", "-ext", "subjectAltName" }, pem, { seconds = 10, errors = "output" })
  return openssl.parse_certificate(output)
end

return openssl
