// A machine in a file with places (mapped-ram): a page that is written again takes its own place again, and whatever the file says of its
// places is looked at before it is believed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <random>

#include "migration/channel.h"
#include "migration/machine_in.h"
#include "migration/machine_out.h"
#include "src/base/bits.h"
#include "src/value/cbor.h"
#include "tests/unit/hw/bench.h"

namespace vmm::test {
namespace {

using migration::Part;

class File {
 public:
  Fd again() const { return Fd{::open(format("/proc/self/fd/{}", fd_.get()).c_str(), O_RDWR | O_CLOEXEC)}; }
  u64 bytes() const {
    struct stat s;
    return ::fstat(fd_.get(), &s) == 0 ? static_cast<u64>(s.st_size) : 0;
  }

 private:
  Fd fd_{::memfd_create("places", MFD_CLOEXEC)};
};

// RAM twice, as passes do, with a store between them.
void write(DeviceBench& bench, const File& file) {
  migration::Channel channel;
  channel.adopt(file.again(), false);
  migration::Writer writer{channel};
  migration::MachineOut out{bench.machine()};
  out.begin();
  OK(out.write_machine_with_places(writer, channel));
  const auto send = [&] {
    OK(out.send_due([&](u32 block, u64 first, u64 count) { return out.place_pages(channel, block, first, count); }));
  };
  send();
  bench.write64(0x1000, 0x1122334455667788);
  bench.write64(0x5000, 0);  // was not zero in the first pass
  out.harvest();
  send();
  OK(out.write_places(writer));
  OK(writer.part(Part::end, std::span<const u8>{}));
}

Result<> read(DeviceBench& bench, const File& file) {
  migration::Channel channel;
  channel.adopt(file.again(), false);
  migration::Reader reader{channel};
  migration::MachineIn in{bench.machine(), true};
  TRY(in.begin(reader));
  CHECK(in.placed());
  TRY(channel.go_to(in.rest()));
  for (;;) {
    const auto part = TRY(reader.next());
    if (part.kind == Part::end) return {};
    TRY(in.take_placed(channel, part.payload));
  }
}

}  // namespace

TEST(each_page_has_its_place) {
  DeviceBench bench;
  bench.write64(0x1000, 1), bench.write64(0x5000, 5), bench.write64(0x7ff8, 7);
  const File file;
  write(bench, file);
  const u64 bytes = file.bytes();
  for (const u64 at : {0x1000, 0x3000, 0x5000, 0x7ff8}) bench.write64(at, 99);
  OK(read(bench, file));
  CHECK(bench.read64(0x1000) == 0x1122334455667788 && bench.read64(0x7ff8) == 7);
  CHECK(bench.read64(0x3000) == 0 && bench.read64(0x5000) == 0);
  write(bench, file);
  CHECK_EQ(file.bytes(), bytes);
  // A page that is not what its sum says.
  const Fd fd = file.again();
  u64 found = 0;
  for (u64 at = 1 * MiB; !found && at < bytes; at += 4096) {
    u64 word = 0;
    if (::pread(fd.get(), &word, sizeof word, static_cast<off_t>(at)) == 8 && word == 0x1122334455667788) found = at;
  }
  CHECK(found);
  const u8 other = 1;
  CHECK(::pwrite(fd.get(), &other, 1, static_cast<off_t>(found)) == 1);
  const auto damaged = read(bench, file);
  CHECK(!damaged && damaged.error().message.contains("damaged"));
}

TEST(places_that_cannot_be_are_refused) {
  DeviceBench bench;
  const File file;
  write(bench, file);
  migration::Channel channel;
  channel.adopt(file.again(), false);
  const Value whole = [&] {
    migration::Reader reader{channel};
    OK(reader.head());
    return OK(parse_cbor(OK(reader.next()).payload));
  }();
  const auto begins = [&](const Value& placed) {
    const File other;
    migration::Channel c;
    c.adopt(other.again(), false);
    migration::Writer writer{c};
    OK(writer.head());
    Value machine = whole;
    machine.set("placed", placed);
    OK(writer.described(Part::machine, machine));
    OK(c.go_to(0));
    migration::Reader reader{c};
    migration::MachineIn in{bench.machine(), true};
    return in.begin(reader).has_value();
  };
  const Value good = *whole.find("placed");
  CHECK(begins(good));
  for (const Value& bad : {Value{}, Value{1}, Value::object(), Value{good}.set("at", Value::list()), Value{good}.set("rest", Value{0}),
                           Value{good}.set("rest", Value{~u64{0}}), Value{good}.set("at", Value::list().append(Value{~u64{0}}))})
    CHECK(!begins(bad));
  for (const u64 at : {~u64{0}, u64{1} << 63, (u64{1} << 60) + 1}) CHECK(!channel.go_to(at));
  // Any bytes as a part.
  OK(channel.go_to(0));
  migration::Reader reader{channel};
  migration::MachineIn in{bench.machine(), true};
  OK(in.begin(reader));
  std::mt19937_64 random{7};
  std::vector<u8> payload;
  for (unsigned i = 0; i < 2000; i++) {
    payload.resize(random() % 1200);
    for (u8& b : payload) b = static_cast<u8>(random());
    if (payload.size() >= 16 && i % 2) {
      store_le<u32>(&payload[0], static_cast<u32>(random() % 3)), store_le<u32>(&payload[4], static_cast<u32>(random() % 260));
      store_le<u64>(&payload[8], i % 4 == 1 ? random() % 300 : random());
    }
    (void)in.take_placed(channel, payload);
  }
}

}  // namespace vmm::test
