// A stream of a machine's state: its parts, and the CBOR within. What parses is written and read back the same.
#include <sys/mman.h>
#include <unistd.h>

#include "migration/channel.h"
#include "src/base/assert.h"
#include "src/value/cbor.h"

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  if (const auto value = parse_cbor({data, size})) {
    const auto again = parse_cbor(to_cbor(*value));
    ASSERT(again.has_value());
    ASSERT(to_cbor(*again) == to_cbor(*value));
  }
  // The first byte chooses: the bytes are a stream as they are, or payloads of a stream whose sums are right.
  if (!size) return 0;
  Fd file{::memfd_create("stream", MFD_CLOEXEC)};
  ASSERT(file);
  if (data[0] & 1) {
    migration::Channel out;
    out.adopt(Fd{::dup(file.get())}, false);
    migration::Writer writer{out};
    ASSERT(writer.head().has_value());
    ASSERT(writer.part(static_cast<migration::Part>(data[0] >> 1 & 7), std::span{data, size}.subspan(1)).has_value());
  } else {
    ASSERT(::write(file.get(), data + 1, size - 1) == static_cast<ssize_t>(size - 1));
  }
  ::lseek(file.get(), 0, SEEK_SET);
  migration::Channel in;
  in.adopt(std::move(file), false);
  migration::Reader reader{in};
  if (!reader.head()) return 0;
  while (const auto part = reader.next())
    if (part->kind == migration::Part::section || part->kind == migration::Part::machine) static_cast<void>(parse_cbor(part->payload));
  return 0;
}
