# Finds libtorch: the imported target Libtorch::Libtorch, Libtorch_PREFIX and
# Libtorch_VERSION. Used to build peft, and by those who find_package(peft).
#
# Looked at, in this order:
#   TORCH_ROOT               a libtorch folder, or a Python wheel's torch folder;
#                            a variable or in the environment; nothing else then
#   find_package(Torch)      where the project has found it already
#   CMAKE_PREFIX_PATH        also as torch.utils.cmake_prefix_path gives it
#   Libtorch_HINTS           folders that the caller knows of
#   the system's folders
#
# libtorch's own CMake package is no help: of a CUDA build it demands the whole
# CUDA toolkit, which nobody needs to link with libtorch.

include(FindPackageHandleStandardArgs)

set(_libtorch_only NO_DEFAULT_PATH)
if(TORCH_ROOT)
  set(_libtorch_prefixes "${TORCH_ROOT}")
elseif(DEFINED ENV{TORCH_ROOT})
  file(TO_CMAKE_PATH "$ENV{TORCH_ROOT}" _libtorch_prefixes)
else()
  unset(_libtorch_only)
  file(TO_CMAKE_PATH "$ENV{CMAKE_PREFIX_PATH}" _libtorch_environment)
  set(_libtorch_prefixes ${TORCH_INSTALL_PREFIX} ${CMAKE_PREFIX_PATH}
                         ${_libtorch_environment} ${Libtorch_HINTS})
endif()
list(TRANSFORM _libtorch_prefixes REPLACE "/share/cmake(/Torch)?/?$" "")

unset(Libtorch_INCLUDE_DIR)
set(_libtorch_header torch/csrc/api/include/torch/torch.h)
find_path(Libtorch_INCLUDE_DIR ${_libtorch_header} NO_CACHE
          HINTS ${_libtorch_prefixes} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(Libtorch_INCLUDE_DIR ${_libtorch_header} NO_CACHE ${_libtorch_only})
string(REGEX REPLACE "/$" "" Libtorch_INCLUDE_DIR "${Libtorch_INCLUDE_DIR}")
string(REGEX REPLACE "/include$" "" Libtorch_PREFIX "${Libtorch_INCLUDE_DIR}")
foreach(_libtorch_name IN ITEMS torch torch_cpu c10)
  unset(Libtorch_${_libtorch_name})
  find_library(Libtorch_${_libtorch_name} ${_libtorch_name} NO_CACHE
               HINTS ${Libtorch_PREFIX} PATH_SUFFIXES lib ${_libtorch_only})
endforeach()

set(_libtorch_header ${Libtorch_INCLUDE_DIR}/torch/headeronly/version.h)
if(EXISTS ${_libtorch_header})
  file(STRINGS ${_libtorch_header} Libtorch_VERSION
       REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
  string(REGEX MATCHALL "[0-9]+" Libtorch_VERSION "${Libtorch_VERSION}")
  list(JOIN Libtorch_VERSION "." Libtorch_VERSION)
endif()

list(JOIN _libtorch_prefixes "', '" _libtorch_looked_in)
find_package_handle_standard_args(
  Libtorch
  REQUIRED_VARS Libtorch_torch Libtorch_torch_cpu Libtorch_c10
                Libtorch_INCLUDE_DIR
  VERSION_VAR Libtorch_VERSION
  HANDLE_VERSION_RANGE
  REASON_FAILURE_MESSAGE
    "looked in '${_libtorch_looked_in}', name a libtorch by -DTORCH_ROOT=...")

if(Libtorch_FOUND AND NOT TARGET Libtorch::Libtorch)
  # Some headers give classes other members with these than without.
  set(_libtorch_targets
      ${Libtorch_PREFIX}/share/cmake/Caffe2/Caffe2Targets.cmake)
  if(EXISTS ${_libtorch_targets})
    file(STRINGS ${_libtorch_targets} _libtorch_definitions
         REGEX "INTERFACE_COMPILE_DEFINITIONS.*USE_DISTRIBUTED")
    string(REGEX MATCHALL "USE_[A-Z0-9_]+" _libtorch_definitions
           "${_libtorch_definitions}")
  endif()
  # libtorch.so only pulls in the libraries of CPU and GPU, which register
  # their kernels: the linker must keep it although no symbol of it is used.
  set(_libtorch_keep ${Libtorch_torch})
  if(UNIX AND NOT APPLE)
    set(_libtorch_keep
        -Wl,--push-state,--no-as-needed,${Libtorch_torch},--pop-state)
    # CUDA's own libraries need not be there to link.
    if(EXISTS ${Libtorch_PREFIX}/lib/libtorch_cuda.so)
      string(APPEND _libtorch_keep ",--allow-shlib-undefined")
    endif()
  endif()
  add_library(Libtorch::Libtorch INTERFACE IMPORTED)
  set_target_properties(
    Libtorch::Libtorch PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES
    "${Libtorch_INCLUDE_DIR};${Libtorch_INCLUDE_DIR}/torch/csrc/api/include"
    INTERFACE_COMPILE_DEFINITIONS "${_libtorch_definitions}"
    INTERFACE_LINK_LIBRARIES
    "${_libtorch_keep};${Libtorch_torch_cpu};${Libtorch_c10}")
endif()
