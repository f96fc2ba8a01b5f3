# `cmake --install`: headers, library, and a CMake package that finds libtorch
# (and, for a static library, PCRE2) again on the user's side.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/peft)

# libtorch is not binary compatible from one minor version to the next.
string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" libtorch_series ${Libtorch_VERSION})
math(EXPR next_minor "${CMAKE_MATCH_2} + 1")
set(libtorch_range ${libtorch_series}...<${CMAKE_MATCH_1}.${next_minor})

get_target_property(library_type peft TYPE)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/peftConfig.cmake.in
  ${PROJECT_BINARY_DIR}/peftConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/peftConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)

install(TARGETS peft EXPORT peftTargets INCLUDES DESTINATION include)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/peft TYPE INCLUDE)
install(EXPORT peftTargets NAMESPACE peft:: DESTINATION ${package_dir})
install(
  FILES ${PROJECT_BINARY_DIR}/peftConfig.cmake
        ${PROJECT_BINARY_DIR}/peftConfigVersion.cmake
        ${PROJECT_SOURCE_DIR}/cmake/FindLibtorch.cmake
        ${PROJECT_SOURCE_DIR}/cmake/FindPCRE2.cmake
  DESTINATION ${package_dir})
