// -object secret,id=ID,data=TEXT|file=FILE[,format=raw|base64][,keyid=ID,iv=BASE64]: with a keyid the text is encrypted by that secret,
// a key of 32 bytes, as management tools hand passwords over on a command line that others can read.
#include "src/control/secret.h"

#include <cstring>

#include "src/io/read_file.h"
#include "src/value/base64.h"

namespace vmm {
namespace {
enum class SecretFormat : u8 { raw, base64 };
constexpr usize file_limit = 1 * MiB;
}  // namespace
template <>
inline constexpr std::array enum_names<SecretFormat> = {EnumNameOf<SecretFormat>{SecretFormat::raw, "raw"},
                                                        EnumNameOf<SecretFormat>{SecretFormat::base64, "base64"}};

// --- AES

namespace {

constexpr u8 times_two(u8 a) { return static_cast<u8>(a << 1 ^ (a & 0x80 ? 0x1b : 0)); }
constexpr u8 times(u8 a, u8 b) {
  u8 product = 0;
  for (; b; b >>= 1, a = times_two(a))
    if (b & 1) product ^= a;
  return product;
}
struct Boxes {
  std::array<u8, 256> forward{}, backward{};
};
// FIPS 197 §5.1.1: the inverse in GF(2^8), then an affine map.
constexpr Boxes boxes = [] {
  Boxes b;
  std::array<u8, 256> inverse{};
  std::array<u8, 256> powers{};  // of 3, which generates the field
  u8 power = 1;
  for (unsigned n = 0; n < 255; n++) powers[n] = power, power = times(power, 3);
  for (unsigned n = 0; n < 255; n++) inverse[powers[n]] = powers[(255 - n) % 255];
  for (unsigned x = 0; x < 256; x++) {
    const u8 i = inverse[x];
    u8 s = 0x63;
    for (unsigned turn = 0; turn < 5; turn++) s ^= static_cast<u8>(i << turn | (turn ? i >> (8 - turn) : 0));
    b.forward[x] = s, b.backward[s] = static_cast<u8>(x);
  }
  return b;
}();

constexpr unsigned key_words = 8, rounds = 14, block_bytes = 16;

class Aes256 {
 public:
  explicit Aes256(std::span<const u8> key) {
    std::memcpy(schedule_.data(), key.data(), key_words * 4);
    u8 constant = 1;
    for (unsigned i = key_words; i < schedule_.size(); i++) {
      std::array<u8, 4> w = schedule_[i - 1];
      if (i % key_words == 0) {
        w = {boxes.forward[w[1]], boxes.forward[w[2]], boxes.forward[w[3]], boxes.forward[w[0]]};
        w[0] ^= constant, constant = times_two(constant);
      } else if (i % key_words == 4) {
        for (u8& b : w) b = boxes.forward[b];
      }
      for (unsigned k = 0; k < 4; k++) schedule_[i][k] = schedule_[i - key_words][k] ^ w[k];
    }
  }
  void decrypt(std::array<u8, block_bytes>& s) const {
    add_key(s, rounds);
    for (unsigned round = rounds; round-- > 0;) {
      std::array<u8, block_bytes> moved;
      for (unsigned row = 0; row < 4; row++)
        for (unsigned column = 0; column < 4; column++) moved[(column + row) % 4 * 4 + row] = boxes.backward[s[column * 4 + row]];
      s = moved;
      add_key(s, round);
      if (round) mix(s);
    }
  }

 private:
  void add_key(std::array<u8, block_bytes>& s, unsigned round) const {
    for (unsigned i = 0; i < block_bytes; i++) s[i] ^= schedule_[round * 4 + i / 4][i % 4];
  }
  static void mix(std::array<u8, block_bytes>& s) {
    for (unsigned c = 0; c < block_bytes; c += 4) {
      const u8 a = s[c], b = s[c + 1], d = s[c + 2], e = s[c + 3];
      s[c] = times(a, 14) ^ times(b, 11) ^ times(d, 13) ^ times(e, 9);
      s[c + 1] = times(a, 9) ^ times(b, 14) ^ times(d, 11) ^ times(e, 13);
      s[c + 2] = times(a, 13) ^ times(b, 9) ^ times(d, 14) ^ times(e, 11);
      s[c + 3] = times(a, 11) ^ times(b, 13) ^ times(d, 9) ^ times(e, 14);
    }
  }
  std::array<std::array<u8, 4>, (rounds + 1) * 4> schedule_;
};

}  // namespace

Result<std::vector<u8>> aes256_cbc_decrypt(std::span<const u8> key, std::span<const u8> iv, std::span<const u8> text) {
  if (key.size() != key_words * 4) return fail("the key has {} bytes, not {}", key.size(), key_words * 4);
  if (iv.size() != block_bytes) return fail("IV should be {} bytes in length not {}", block_bytes, iv.size());
  if (text.empty() || text.size() % block_bytes) return fail("encrypted data is not a whole number of blocks of {} bytes", block_bytes);
  const Aes256 cipher{key};
  std::vector<u8> plain(text.size());
  std::span<const u8> before = iv;
  for (usize at = 0; at < text.size(); at += block_bytes) {
    std::array<u8, block_bytes> block;
    std::memcpy(block.data(), &text[at], block_bytes);
    cipher.decrypt(block);
    for (unsigned i = 0; i < block_bytes; i++) plain[at + i] = block[i] ^ before[i];
    before = text.subspan(at, block_bytes);
  }
  const usize padding = plain.back();
  if (padding == 0 || padding > block_bytes) return fail("incorrect number of padding bytes ({}) found on decrypted data", padding);
  plain.resize(plain.size() - padding);
  return plain;
}

// --- The object

namespace {

class Secret final : public Object {
 public:
  static const TypeInfo type;
  Result<> complete() override {
    if (data_.empty() == file_.empty())
      return data_.empty() ? Result<>{fail("Either 'data' or 'file' must be provided")}
                           : Result<>{fail("'file' and 'data' are mutually exclusive")};
    std::vector<u8> given{data_.begin(), data_.end()};
    if (!file_.empty()) given = TRY(read_file(file_, file_limit, format("Unable to read {}", file_)));
    const auto text = [](const std::vector<u8>& bytes) {
      return std::string_view{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    };
    if (key_id_.empty()) {
      if (!iv_.empty()) return fail("'iv' needs a 'keyid'");
      bytes_ = format_ == SecretFormat::base64 ? TRY(from_base64(text(given))) : std::move(given);
    } else {
      // What is encrypted comes as Base64, whatever the plain text is.
      if (iv_.empty()) return fail("IV is required to decrypt secret");
      const std::vector<u8> plain =
          TRY(aes256_cbc_decrypt(TRY(secret_bytes(key_id_)), TRY(from_base64(iv_)), TRY(from_base64(text(given)))));
      bytes_ = format_ == SecretFormat::base64 ? TRY(from_base64(text(plain))) : plain;
    }
    complete_ = true;
    return {};
  }
  bool properties_frozen() const override { return complete_; }
  const std::vector<u8>& bytes() const { return bytes_; }

 private:
  static const Field properties[5];
  std::string data_, file_, key_id_, iv_;
  SecretFormat format_ = SecretFormat::raw;
  std::vector<u8> bytes_;
  bool complete_ = false;
};
constexpr Field Secret::properties[5] = {
    field<&Secret::data_>("data", "The secret itself."),
    field<&Secret::file_>("file", "File that holds it."),
    field<&Secret::format_>("format", "raw or base64: how the secret is written."),
    field<&Secret::key_id_>("keyid", "Secret with the AES-256 key by which this one is encrypted."),
    field<&Secret::iv_>("iv", "Base64 of the initialisation vector of that encryption."),
};
constinit const TypeInfo Secret::type{.name = "secret",
                                      .doc = "A password or key that other options name by its id.",
                                      .parent = &Object::type,
                                      .properties = properties,
                                      .make = make<Secret>};
Registered registered{Secret::type};

}  // namespace

Result<std::vector<u8>> secret_bytes(std::string_view id) {
  Object* folder = root_object().child("objects");
  Object* object = folder ? folder->child(id) : nullptr;
  if (!object) return fail("No secret with id '{}'", id);
  const auto* secret = object_cast<Secret>(object);
  if (!secret) return fail("Object with id '{}' is not a secret", id);
  return secret->bytes();
}

}  // namespace vmm
