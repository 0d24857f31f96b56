// 82540EM, 82544GC and 82545EM on PCI (sources: intel.h). Not modelled: TBI, packet split, wake-up, flow control frames.
#include "hw/net/intel.h"

namespace vmm::hw {

namespace {

class E1000 : public IntelNic {
 public:
  static const TypeInfo type;
  E1000() : E1000(0x100e, 0x0141, 0x0c20) {}
  void reset() override {
    fill();
    IntelNic::reset();
  }

 protected:
  E1000(u16 device, u16 phy_id1, u16 phy_id2)
      : IntelNic({.vendor = 0x8086, .device = device, .revision = 3, .class_code = 0x020000}, "efi-e1000.rom", phy_id1, phy_id2) {}

 private:
  void fill() {
    std::array<u16, 64> words{};
    words[3] = 0x0000, words[4] = 0xffff, words[8] = 0x3000, words[9] = 0x1000, words[10] = 0x6403;
    words[11] = ids().device, words[12] = 0x8086, words[13] = ids().device, words[14] = 0x8086;
    words[15] = 0x3040, words[16] = 0x0008, words[17] = 0x2000, words[18] = 0x7e14, words[19] = 0x0048, words[20] = 0x1000,
    words[21] = 0x00d8;
    words[23] = 0x2700, words[24] = 0x6cc9, words[25] = 0x3150, words[26] = 0x0722, words[27] = 0x040b, words[28] = 0x0984,
    words[30] = 0xc000;
    words[31] = 0x0706, words[32] = 0x1008, words[34] = 0x0f04, words[35] = 0x7fff, words[36] = 0x4d01;
    fill_eeprom(words);
  }
  static const Field own_properties[4];
  bool autonegotiation_ = true, mitigation_ = true, extra_ = true, init_vet_ = true;
};
constexpr Field E1000::own_properties[4] = {
    field<&E1000::autonegotiation_>("autonegotiation", "The link is negotiated; it always is."),
    field<&E1000::mitigation_>("mitigation", "Interrupts are spread as the driver asks; they always are."),
    field<&E1000::extra_>("extra_mac_registers", "All registers are part of the state; they always are."),
    field<&E1000::init_vet_>("init-vet", "The VLAN type register starts as 0x8100; it always does."),
};
constinit const TypeInfo E1000::type{
    .name = "e1000",
    .doc = "Intel Gigabit Ethernet",
    .parent = &IntelNic::type,
    .properties = own_properties,
    .make = make<E1000>,
    .alias = "e1000-82540em",
    .category = "Network devices",
};

class E1000Gc final : public E1000 {
 public:
  static const TypeInfo type;
  E1000Gc() : E1000(0x1008, 0x0141, 0x0c30) {}
};
constinit const TypeInfo E1000Gc::type{
    .name = "e1000-82544gc", .doc = "Intel Gigabit Ethernet", .parent = &E1000::type, .make = make<E1000Gc>, .category = "Network devices"};
class E1000Em final : public E1000 {
 public:
  static const TypeInfo type;
  E1000Em() : E1000(0x100f, 0x0141, 0x0c20) {}
};
constinit const TypeInfo E1000Em::type{
    .name = "e1000-82545em", .doc = "Intel Gigabit Ethernet", .parent = &E1000::type, .make = make<E1000Em>, .category = "Network devices"};

const Registered registered[] = {Registered{E1000::type}, Registered{E1000Gc::type}, Registered{E1000Em::type}};

}  // namespace

}  // namespace vmm::hw
