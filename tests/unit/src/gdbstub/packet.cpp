#include "src/gdbstub/packet.h"

#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::gdb;

namespace {
// What the reader makes of a line: the packets, with marks for all else.
std::string read(std::string_view wire) {
  PacketReader reader;
  std::string out;
  for (const char c : wire) {
    switch (reader.byte(static_cast<u8>(c))) {
      case PacketReader::Event::none: break;
      case PacketReader::Event::packet: out += format("[{}]", reader.data()); break;
      case PacketReader::Event::bad_checksum: out += "!"; break;
      case PacketReader::Event::too_long: out += "long"; break;
      case PacketReader::Event::interrupt: out += "^"; break;
      case PacketReader::Event::ack: out += "+"; break;
      case PacketReader::Event::nak: out += "-"; break;
    }
  }
  return out;
}
}  // namespace

TEST(gdb_packets_are_found_in_rubbish) {
  CHECK_EQ(read(frame("m0,4")), std::string{"[m0,4]"});
  CHECK_EQ(read("xx+$g#67-\x03$g#68"), std::string{"+[g]-^!"});
  CHECK_EQ(read("$abc$g#67"), std::string{"[g]"});
  CHECK_EQ(read("$#00"), std::string{"[]"});
  CHECK_EQ(read("$g#6z$g#z7"), std::string{"!!"});
  CHECK_EQ(read(frame("a}\x03"
                      "b")),
           std::string{"[a#b]"});
  CHECK_EQ(read("$" + std::string(packet_bytes, 'a') + "#00"), std::string{"[" + std::string(packet_bytes, 'a') + "]"});
  CHECK_EQ(read("$" + std::string(packet_bytes + 1, 'a') + "#61"), std::string{"long"});
}

TEST(gdb_hex_and_escapes) {
  CHECK_EQ(to_hex("\x01\xab"), std::string{"01ab"});
  CHECK(from_hex("01aB") == std::vector<u8>({1, 0xab}));
  CHECK(!from_hex("1") && !from_hex("zz") && from_hex("")->empty());
  CHECK_EQ(escape("a}#$*b"), std::string{"a}]}\x03}\x04}\nb"});
  std::string_view text = "00000000000000001f,rest";
  CHECK(take_hex(text) == 0x1f);
  CHECK_EQ(text, std::string_view{",rest"});
  text = "12345678123456781";
  CHECK(!take_hex(text));
  text = "";
  CHECK(!take_hex(text));
}
