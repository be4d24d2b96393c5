-- Writes small container images for demos and specs, in the layout that skopeo calls dir: one layer with one file of
-- random bytes, so that no two images are equal. Needs tar, gzip and luaossl.

local digest = require "openssl.digest"
local files = require "files"

local image = {}

local CONFIG = '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},'
  .. '"history":[{"created_by":"icptoken"}]}'

local MANIFEST = [[{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
  "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": %d, "digest": "sha256:%s" },
  "layers": [
    { "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": %d, "digest": "sha256:%s" }
  ]
}
]]

--- The SHA-256 of a string, in hexadecimal digits.
function image.hash(content)
  return (digest.new("sha256"):final(content):gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end

local function read_random(size)
  local source = assert(io.open("/dev/urandom", "rb"))
  local bytes = source:read(size)
  source:close()
  return bytes
end

-- Returns a tar archive of one file of this many bytes, plain and compressed. directory is for temporary files.
local function make_layer(directory, size)
  files.write(directory .. "/random", read_random(size))
  local command = "cd %s && tar -cf layer random && gzip -n -k layer"
  local result = os.execute(command:format(files.quote(directory)))
  if result ~= 0 and result ~= true then error("tar or gzip failed", 0) end
  local plain, compressed = files.read(directory .. "/layer"), files.read(directory .. "/layer.gz")
  for _, name in ipairs { "random", "layer", "layer.gz" } do os.remove(directory .. "/" .. name) end
  return plain, compressed
end

--- Writes an image whose file has this many bytes into an existing, empty directory. Raises if tar or gzip fails.
-- Returns a table: contents (file name to content), and the digests manifest, config and layer.
function image.write(directory, size)
  local plain, layer = make_layer(directory, size)
  local config = CONFIG:format(image.hash(plain))
  local manifest = MANIFEST:format(#config, image.hash(config), #layer, image.hash(layer))
  local contents = { version = "Directory Transport Version: 1.1\n", ["manifest.json"] = manifest,
    [image.hash(config)] = config, [image.hash(layer)] = layer }
  for name, content in pairs(contents) do files.write(directory .. "/" .. name, content) end
  return { contents = contents, manifest = "sha256:" .. image.hash(manifest), config = "sha256:" .. image.hash(config),
    layer = "sha256:" .. image.hash(layer) }
end

--- Returns whether a directory holds exactly the files that image.write returned as contents.
function image.is_same(contents, directory)
  local listing = assert(io.popen("ls -A " .. files.quote(directory)))
  local found = 0
  for name in listing:lines() do
    found = found + 1
    if contents[name] ~= files.read(directory .. "/" .. name) then
      listing:close()
      return false
    end
  end
  listing:close()
  for _ in pairs(contents) do found = found - 1 end
  return found == 0
end

return image
