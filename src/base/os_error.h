// Failures of host calls that a device or a tool must tell apart (ENOSPC stops a guest, EIO is reported to it). The errno travels in
// Error::kind, above the classes that QMP knows, so that it survives every hand-over.
#pragma once

#include <cerrno>

#include "src/base/result.h"

namespace vmm {

// "text: strerror(os_error)"; without a text only its own words.
std::unexpected<Error> fail_os(int os_error, std::string text = {});
// The errno that came with a failure; 0: none did.
int os_error_of(const Error& error);
// What a device or a tool makes of a failure: its errno, EIO where none is known.
inline int error_number(const Error& error) { return os_error_of(error) ? os_error_of(error) : EIO; }
// Gives a failure its errno.
void set_os_error(Error& error, int os_error);

}  // namespace vmm
