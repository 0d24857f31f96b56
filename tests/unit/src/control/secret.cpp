#include "src/control/secret.h"

#include "src/value/base64.h"
#include "tests/unit/test.h"

namespace vmm {
namespace {

std::vector<u8> hex(std::string_view text) {
  std::vector<u8> out;
  for (usize i = 0; i + 1 < text.size(); i += 2) out.push_back(static_cast<u8>(std::stoul(std::string{text.substr(i, 2)}, nullptr, 16)));
  return out;
}
Result<Ref<Object>> make_secret(std::string_view id, std::initializer_list<std::pair<std::string_view, std::string_view>> properties) {
  Ref<Object> object = make_object(*find_type("secret"));
  for (const auto& [name, value] : properties) TRY(object->set(name, Value{value}));
  TRY(object->complete());
  root_object().child("objects")->add_child(std::string{id}, object);
  return object;
}

TEST(secret_decrypts_as_openssl_encrypts) {
  // printf 'hello, vmm secret' | openssl enc -aes-256-cbc -K 00010203…1f -iv 0f0e…00 -base64
  const auto key = hex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
  const auto iv = hex("0f0e0d0c0b0a09080706050403020100");
  const auto plain = OK(aes256_cbc_decrypt(key, iv, OK(from_base64("iOrppWiOvDdFLTdnuQVmrLHKxi4/QatcNnMNK3C5gqg="))));
  CHECK_EQ((std::string{plain.begin(), plain.end()}), "hello, vmm secret");
  CHECK(!aes256_cbc_decrypt(key, iv, hex("00")));
  CHECK(!aes256_cbc_decrypt(hex("00"), iv, hex("00112233445566778899aabbccddeeff")));
}

TEST(secret_is_found_by_its_id_and_says_what_is_wrong) {
  MachineLockedIfNot lock;
  const Ref<Object> plain = OK(make_secret("s-plain", {{"data", "letmein"}}));
  CHECK_EQ(OK(secret_bytes("s-plain")).size(), 7u);
  const Ref<Object> coded = OK(make_secret("s-coded", {{"data", "bGV0bWVpbg=="}, {"format", "base64"}}));
  CHECK(OK(secret_bytes("s-coded")) == OK(secret_bytes("s-plain")));
  CHECK(!secret_bytes("s-none"));
  CHECK(!make_secret("s-empty", {}));
  CHECK(!make_secret("s-both", {{"data", "x"}, {"file", "/dev/null"}}));
  CHECK(!make_secret("s-bad", {{"data", "b*"}, {"format", "base64"}}));
  CHECK(!make_secret("s-iv", {{"data", "aGVsbG8="}, {"keyid", "s-plain"}}));
  for (const auto& object : {plain, coded}) root_object().child("objects")->remove_child(*object);
}

}  // namespace
}  // namespace vmm
