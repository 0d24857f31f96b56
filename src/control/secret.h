// -object secret: a password or key that other options name by its id.
#pragma once

#include <vector>

#include "src/object/object.h"

namespace vmm {

// The bytes of the secret with this id.
Result<std::vector<u8>> secret_bytes(std::string_view id);

// Decrypts and removes the padding. Source: FIPS 197 (AES), SP 800-38A §6.2 (CBC), PKCS #7 (padding).
Result<std::vector<u8>> aes256_cbc_decrypt(std::span<const u8> key, std::span<const u8> iv, std::span<const u8> text);

}  // namespace vmm
