-- Creates the stub's keys and certificates: two throwaway CAs, a server certificate for each kind of valid or invalid
-- one, a client certificate, and the certificate of the key that signs tokens. Writes the files that clients and
-- registries need into the stub's directory.

local ffi = require "ffi"
local altname = require "openssl.x509.altname"
local bignum = require "openssl.bignum"
local extension = require "openssl.x509.extension"
local pkey = require "openssl.pkey"
local rand = require "openssl.rand"
local x509 = require "openssl.x509"
local x509_name = require "openssl.x509.name"
local system = require "system"

ffi.cdef [[
void *BIO_new_mem_buf(const void *data, int length);
void *BIO_new_file(const char *path, const char *mode);
int BIO_free(void *bio);
void *PEM_read_bio_PrivateKey(void *bio, void **key, void *callback, void *argument);
int PEM_write_bio_PKCS8PrivateKey(void *bio, void *key, const void *cipher, const char *password, int length,
  void *callback, void *argument);
const void *EVP_aes_256_cbc(void);
void EVP_PKEY_free(void *key);
]]

local DAY = 86400
local certificates = {}

local function make_ec_key()
  return pkey.new { type = "EC", curve = "prime256v1" }
end

local function make_name(common_name)
  local name = x509_name.new()
  name:add("CN", common_name)
  return name
end

local function make_alt_names(hosts, addresses)
  local names = altname.new()
  for _, host in ipairs(hosts) do
    names:add("DNS", host)
  end
  for _, address in ipairs(addresses) do
    names:add("IP", address)
  end
  return names
end

-- spec: name, key, issuer ({certificate, key}, nil = self-signed), ca (boolean), usage, extended_usage,
-- alt_names, from and till (seconds relative to now).
local function make_certificate(spec)
  local certificate = x509.new()
  local issuer = spec.issuer or { certificate = certificate, key = spec.key }
  certificate:setVersion(3)
  certificate:setSerial(bignum.fromBinary("\1" .. rand.bytes(15)))
  certificate:setSubject(make_name(spec.name))
  certificate:setIssuer(issuer.certificate:getSubject())
  certificate:setLifetime(os.time() + (spec.from or -DAY), os.time() + (spec.till or 365 * DAY))
  certificate:setPublicKey(spec.key)
  certificate:setBasicConstraints { CA = spec.ca or false }
  certificate:setBasicConstraintsCritical(true)
  if spec.alt_names then
    certificate:setSubjectAlt(spec.alt_names)
  end
  local context = { subject = certificate, issuer = issuer.certificate }
  certificate:addExtension(extension.new("keyUsage", "critical," .. spec.usage))
  if spec.extended_usage then
    certificate:addExtension(extension.new("extendedKeyUsage", spec.extended_usage))
  end
  certificate:addExtension(extension.new("subjectKeyIdentifier", "hash", context))
  if spec.issuer then
    certificate:addExtension(extension.new("authorityKeyIdentifier", "keyid:always", context))
  end
  certificate:sign(issuer.key)
  return { certificate = certificate, key = spec.key }
end

local function make_authority(name)
  return make_certificate { name = name, key = make_ec_key(), ca = true, usage = "keyCertSign,cRLSign" }
end

local function make_server(authority, hosts, addresses, from, till)
  return make_certificate {
    name = hosts[1], key = make_ec_key(), issuer = authority, from = from, till = till,
    usage = "digitalSignature", extended_usage = "serverAuth", alt_names = make_alt_names(hosts, addresses),
  }
end

local function write_file(path, content)
  local file = assert(io.open(path, "wb"))
  assert(file:write(content))
  assert(file:close())
end

-- luaossl writes private keys without a password only.
local function write_encrypted_key(path, key, password)
  local crypto = system.load_openssl "crypto"
  local pem = key:toPEM "private"
  local input = crypto.BIO_new_mem_buf(pem, #pem)
  local output = crypto.BIO_new_file(path, "w")
  assert(input ~= nil and output ~= nil, "cannot write " .. path)
  local loaded = crypto.PEM_read_bio_PrivateKey(input, nil, nil, nil)
  local cipher = crypto.EVP_aes_256_cbc()
  assert(crypto.PEM_write_bio_PKCS8PrivateKey(output, loaded, cipher, password, #password, nil, nil) == 1)
  crypto.EVP_PKEY_free(loaded)
  crypto.BIO_free(output)
  crypto.BIO_free(input)
end

-- The key that signs tokens, from a file in PEM if there is one.
local function get_token_key(path)
  if not path then return pkey.new { type = "RSA", bits = 2048 } end
  local file = assert(io.open(path))
  local pem = file:read "*a"
  file:close()
  return pkey.new(pem)
end

--- Creates all of them. Returns a table whose members are { certificate =, key = }. token_key: the path of a file with
-- an RSA key in PEM, which signs tokens instead of a new one.
function certificates.make_all(token_key)
  local hosts, addresses = { "localhost", "mycluster.icp" }, { "127.0.0.1", "::1" }
  local authority, other_authority = make_authority "stub CA", make_authority "other stub CA"
  return {
    authority = authority,
    other_authority = other_authority,
    server = make_server(authority, hosts, addresses),
    expired = make_server(authority, hosts, addresses, -30 * DAY, -DAY),
    not_yet_valid = make_server(authority, hosts, addresses, DAY, 30 * DAY),
    self_signed = make_server(nil, hosts, addresses),
    wrong_host = make_server(authority, { "other.example" }, {}),
    unknown_ca = make_server(other_authority, hosts, addresses),
    client = make_certificate {
      name = "stub client", key = make_ec_key(), issuer = authority,
      usage = "digitalSignature", extended_usage = "clientAuth",
    },
    token_signing = make_certificate {
      name = "registry-token-issuer", key = get_token_key(token_key), usage = "digitalSignature",
    },
  }
end

--- Writes the files that clients and registries need, and adds their names and paths to `paths`.
function certificates.write_all(all, directory, client_key_password, paths)
  local function write(name, file, content)
    paths[name] = directory .. "/" .. file
    write_file(paths[name], content)
  end
  write("ca", "ca.crt", tostring(all.authority.certificate))
  write("other_ca", "other-ca.crt", tostring(all.other_authority.certificate))
  write("server_cert", "server.crt", tostring(all.server.certificate))
  write("server_key", "server.key", all.server.key:toPEM "private")
  write("client_cert", "client.crt", tostring(all.client.certificate))
  write("client_key", "client.key", all.client.key:toPEM "private")
  write("token_signing_cert", "token-signing.crt", tostring(all.token_signing.certificate))
  paths.client_encrypted_key = directory .. "/client-encrypted.key"
  write_encrypted_key(paths.client_encrypted_key, all.client.key, client_key_password)
end

return certificates
