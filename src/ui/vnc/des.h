// DES in the form in which VNC's password check uses it. Sources: FIPS 46-3; RFC 6143 §7.2.2 (the key is the password, each byte with
// its bits reversed). Not for anything that is to be kept secret.
#pragma once

#include <array>
#include <string_view>

#include "src/base/types.h"

namespace vmm::ui::vnc {

u64 des_encrypt(u64 key, u64 block);
// What a client that knows the password answers to the challenge. Eight bytes of the password count.
std::array<u8, 16> challenge_answer(const std::array<u8, 16>& challenge, std::string_view password);

}  // namespace vmm::ui::vnc
